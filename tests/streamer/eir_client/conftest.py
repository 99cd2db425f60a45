"""Servers with traps, clients of them, and what these should read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eir_client_harness import Connect, Serve
from eir_reference_server import EOT, EirReferenceServer, Traps
from streamer_harness import FRACTION, SALT, make_plan
from tokenizers import Tokenizer

from streamer import transport
from streamer.client import Batch
from streamer.eir.client import EirClient
from streamer.split import split_documents


@pytest.fixture(scope="module")
def few(documents: list[str]) -> list[str]:
    """Enough documents for ten requests, with all the odd ones."""
    return documents[:70] + documents[-10:]


@pytest.fixture
def serve(few: list[str]) -> Iterator[Serve]:
    """Starts servers of the documents with traps."""
    started: list[EirReferenceServer] = []

    def start(texts: list[str] | None = None, **traps: Any) -> EirReferenceServer:
        server = EirReferenceServer(few if texts is None else texts, Traps(**traps))
        started.append(server.__enter__())
        return server

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def connect(tokenizer_json: str) -> Iterator[Connect]:
    """Clients that know the tokenizer."""
    made: list[EirClient] = []

    def make(server: EirReferenceServer | str, **options: Any) -> EirClient:
        url = server if isinstance(server, str) else server.url
        options = {"batch_size": 8, "deadline_seconds": 20, **options}
        made.append(EirClient(url, **options))
        made[-1].upload_tokenizer(tokenizer_json)
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def read(tokenizer_json: str) -> Callable[..., list[Batch]]:
    """All batches of a stream."""

    def batches(client: EirClient, split: str = "train", **options: Any) -> list[Batch]:
        options = {"plan": make_plan(tokenizer_json), "batch": 16, "epochs": 1, **options}
        return list(client.open(split=split, **options))

    return batches


@pytest.fixture
def expected(tokenizer_json: str, few: list[str]) -> Callable[..., list[int]]:
    """The tokens of texts of a split, as they should come."""

    def tokens(texts: list[str] | None = None, split: str = "train") -> list[int]:
        kept, _ = split_documents(few if texts is None else texts, split, FRACTION, SALT)
        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.encode_special_tokens = True
        eot = tokenizer.token_to_id(EOT)
        parts = [tokenizer.encode(text, add_special_tokens=False).ids for text in kept]
        return [eot, *(token for ids in parts for token in [*ids, eot])]

    return tokens


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(transport, "LONGEST_DELAY_SECONDS", 0.01)
