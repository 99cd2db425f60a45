"""Sources that are slower than a deadline, and those that are given up: who waits, who says it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web as aiohttp_web
from streamer_harness import REPOSITORY, Socket, talk
from streamer_stores import FileServer, as_jsonl

from streamer.access import Tokens
from streamer.application import Application
from streamer.background import Background
from streamer.cache import TokenCache
from streamer.client import StreamClient, StreamError
from streamer.gate import Gate
from streamer.library import SIGNS_OF_LIFE, Library
from streamer.protocol import Limits
from streamer.server import list_sources
from streamer.sources.remote import Patience
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

PAGE = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
PREPARING = re.findall(r'^```json title="preparing"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
TEXT = {"split": "train", "fraction": 0.0, "salt": "", "max_documents": 1000}

Serve = Callable[..., Any]


@pytest.fixture
def make_library(tmp_path: Path) -> Iterator[Callable[..., Library]]:
    made: list[Library] = []

    def make(address: str, patience: Patience | None = None) -> Library:
        cache = TokenCache(tmp_path / "cache")
        made.append(Library([SourceSpec(address)], cache))
        made[-1].shelf = Shelf(cache.disk, patience)
        return made[-1]

    yield make
    for library in made:
        library.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A server in this process, which shows a sign of life ten times a second."""
    for name in ("connection.PREPARING", "feed.PREPARING", "server.LISTING", "sources.remote.SIGN"):
        monkeypatch.setattr(f"streamer.{name}_SECONDS", 0.1)

    @contextmanager
    def serve(library: Library) -> Iterator[str]:
        application = Application(library, Tokens(None, None), Limits(), is_local=True)
        runner = aiohttp_web.AppRunner(application.web, access_log=None, shutdown_timeout=1.0)

        async def start() -> tuple[Gate, int]:
            await runner.setup()
            assert runner.server is not None
            gate = Gate(runner.server, Limits(), library.metrics, None)
            return gate, await gate.listen("127.0.0.1", 0)

        background = Background("server")
        gate, port = background.call(start())
        try:
            yield f"ws://127.0.0.1:{port}/ws"
        finally:
            background.call(gate.close())
            background.call(runner.cleanup())
            background.close()

    return serve


def test_all_who_wait_for_a_slow_file_are_served_by_one_read(
    web: FileServer,
    make_library: Callable[..., Library],
    serve: Serve,
    documents: list[str],
    tokenizer_json: str,
    plan: dict[str, Any],
) -> None:
    web.files["/a.jsonl.gz"] = gzip.compress(as_jsonl(documents))
    web.faults = ["", "drip 2"]  # it is listed, and read
    signs: list[dict[str, Any]] = []

    async def ask(socket: Socket) -> None:
        await socket.send_json({"op": "text", "id": 4, "max_bytes": 1 << 20} | TEXT)
        while (answer := json.loads(await socket.receive_str()))["op"] == "preparing":
            signs.append(answer)
        assert (answer["op"], answer["id"]) == ("text", 4)

    with (
        serve(make_library(f"{web.url}/a.jsonl.gz")) as url,
        StreamClient([url], deadline_seconds=1.5) as client,
        ThreadPoolExecutor() as pool,
    ):
        client.upload_tokenizer(tokenizer_json)
        asking = pool.submit(talk, url, ask)
        reading = pool.submit(client.documents, **TEXT)
        batches = client.open(plan=plan, split="train", batch=4, epochs=1)
        assert reading.result(20) == documents
        asking.result(20)
        assert sum(len(batch.tokens) for batch in batches) > 100
    assert len(web.ranges("a.jsonl.gz")) == 2
    assert len({sign["progress"] for sign in signs}) > 5
    assert signs[0] | {"progress": 5242880} == json.loads(PREPARING[1])


def test_a_store_that_is_given_up_is_named_by_the_client(
    web: FileServer,
    make_library: Callable[..., Library],
    serve: Serve,
    tokenizer_json: str,
    plan: dict[str, Any],
) -> None:
    web.files["/a.txt"] = b"text"
    web.faults = ["", *["silent"] * 100]
    library = make_library(f"{web.url}/a.txt", Patience(0.8, 0.3))
    with serve(library) as url, StreamClient([url], deadline_seconds=0.6) as client:
        client.upload_tokenizer(tokenizer_json)
        with pytest.raises(StreamError, match=r"cannot read http://.*/a\.txt: it does") as caught:
            client.open(plan=plan, split="train", batch=4)
    assert caught.value.code == "deadline"


def test_the_log_says_that_sources_are_listed_still(
    web: FileServer,
    make_library: Callable[..., Library],
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    web.files["/a.txt"] = b"text"
    web.faults = ["503 0.4"]
    (listing,) = asyncio.run(list_sources(make_library(f"{web.url}/a.txt")))
    assert len(listing.shards) == 1
    assert caplog.messages.count("listing") >= 2


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reading_a_local_file_once_is_a_sign_of_life(
    suffix: str, make_library: Callable[..., Library], documents: list[str], tmp_path: Path
) -> None:
    path, content = tmp_path / f"a.jsonl{suffix}", as_jsonl(documents)
    path.write_bytes(gzip.compress(content) if suffix else content)
    library = make_library(str(path))

    async def read() -> list[list[str]]:
        (listing,) = await library.listings()
        return await asyncio.gather(*(library.documents(listing, 0) for _ in range(3)))

    assert asyncio.run(read()) == [documents] * 3
    counts = {name: library.shelf.counters[name] for name in SIGNS_OF_LIFE}
    assert (counts["hashed_files"], counts["listed_files"]) == (1, 1)
    assert counts["read_bytes"] >= path.stat().st_size
    assert counts["read_documents"] == len(documents)
