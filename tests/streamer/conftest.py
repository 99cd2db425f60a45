"""A small corpus, a small tokenizer, and real servers on loopback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy, Toxics
from streamer_forks import STREAMERS, fork
from streamer_harness import EOT, ServerProcess, Socket, ask, epoch, make_plan, sha256, talk
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from streamer.client import StreamClient


@pytest.fixture(scope="session", autouse=True)
def _end_of_forks_of_streamers() -> Iterator[None]:
    """Their server ends with the tests."""
    yield
    STREAMERS.close()


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """About 300 documents: prose, and everything that is easily damaged on the way."""
    source = random.Random(7)
    words = ["the", "river", "Steven", "movie", "most", "over", "caf\u00e9", "\u6c34", "under"]
    made = [
        f"{number}: " + " ".join(source.choice(words) for _ in range(source.randint(1, 400)))
        for number in range(290)
    ]
    odd = ["", EOT, f"a {EOT}{EOT} b", "a\r\nb\r\n\r\nc", "tab\tand\0nul", "\U0001f600" * 9, "\n\n"]
    return made + odd + ["x" * 50_000, " leading", "trailing \n"]


@pytest.fixture(scope="session")
def tokenizer_json(documents: list[str]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return str(tokenizer.to_str())


@pytest.fixture(scope="session")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as two parquet files of 3 and 4 row groups, the last of one document."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, part, rows in (("a", documents[:130], 50), ("b", documents[130:], 56)):
        pq.write_table(pa.table({"text": part}), folder / f"{name}.parquet", row_group_size=rows)
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(corpus: Path, cache_dir: Path) -> Iterator[ServerProcess]:
    """One server of the corpus for all tests that do it no harm."""
    process = ServerProcess(corpus, cache_dir)
    yield process
    process.kill()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of one's own, as forks unless told otherwise; kills what is left of them."""
    started: list[ServerProcess] = []

    def start(source: Path | str, *arguments: str, **options: Any) -> ServerProcess:
        options = {"cache_dir": tmp_path / "cache", "start": fork, **options}
        started.append(ServerProcess(source, options.pop("cache_dir"), *arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def proxied(server: ServerProcess) -> Iterator[Callable[..., FaultProxy]]:
    """Lines to the server that do harm by the number of the connection; they end with the test."""
    made: list[FaultProxy] = []

    def make(harm: Callable[[int], Toxics] = lambda number: Toxics(), **options: Any) -> FaultProxy:
        made.append(FaultProxy(options.pop("ports", [server.port]), harm, **options))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[StreamClient]:
    with StreamClient([server.url], deadline_seconds=20) as opened:
        yield opened


@pytest.fixture
def plan(tokenizer_json: str) -> dict[str, Any]:
    """A shuffled plan without sources; two shards a group."""
    return make_plan(tokenizer_json)


@pytest.fixture
def opening(plan: dict[str, Any], tokenizer_json: str, server: ServerProcess) -> dict[str, Any]:
    async def upload(socket: Socket) -> None:
        assert (await ask(socket, {"op": "tokenizer", "json": tokenizer_json}))["known"]

    talk(server.url, upload)
    return {
        "op": "open",
        "stream": 3,
        "plan": plan,
        "split": "train",
        "cursor": None,
        "batch": 4,
        "rank": 0,
        "world": 1,
        "credit": 1,
        "epochs": None,
    }


@pytest.fixture
def reference(client: StreamClient, plan: dict[str, Any], tokenizer_json: str) -> str:
    client.upload_tokenizer(tokenizer_json)
    return sha256(epoch(client, plan, 3, epochs=2))
