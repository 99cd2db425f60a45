"""From the start to the end of servers and clients, and what may happen to their files between."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamer_harness import ServerProcess, epoch, make_plan, sha256, start_fresh

from streamer.cache import TokenCache
from streamer.client import StreamClient, StreamError
from streamer.library import Library
from streamer.sources.spec import SourceSpec
from streamer.tokens import StoppingError

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_with_open_streams(
    start_server: Start,
    corpus: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    number: int,
) -> None:
    server = start_server(corpus, start=start_fresh)
    with StreamClient([server.url], deadline_seconds=1) as client:
        client.upload_tokenizer(tokenizer_json)
        streams = [client.open(plan=plan, split="train", batch=3) for _ in range(4)]
        for stream in streams:
            next(stream)
        began = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in server.errors


def test_a_busy_server_ends_in_time(
    start_server: Start, tmp_path: Path, tokenizer_json: str
) -> None:
    texts = ["word " * 200_000] * 40
    pq.write_table(pa.table({"text": texts}), tmp_path / "large.parquet")
    server = start_server(tmp_path / "large.parquet")
    plan = make_plan(tokenizer_json)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        opening = threading.Thread(target=_open_and_fail, args=(client, plan))
        opening.start()
        time.sleep(1.0)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < 5
    opening.join(10)
    assert not opening.is_alive()


def _open_and_fail(client: StreamClient, plan: dict[str, Any]) -> None:
    with pytest.raises(StreamError):
        client.open(plan=plan, split="train", batch=1)


def test_a_changed_file_is_another_plan(
    start_server: Start, tmp_path: Path, corpus: Path, plan: dict[str, Any], tokenizer_json: str
) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    path = tmp_path / "corpus" / "b.parquet"
    server = start_server(tmp_path / "corpus")
    with StreamClient([server.url], deadline_seconds=10) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, credit=1)
        batch = next(stream)
        pq.write_table(pa.table({"text": ["other"] * 9}), path)
        with pytest.raises(StreamError) as caught:
            client.open(plan=stream.plan, split="train", batch=3, cursor=batch.next)
        assert caught.value.code == "plan_mismatch"
        assert caught.value.field == "sources.0.fingerprint"
        other = client.open(plan=plan, split="train", batch=3, epochs=1)
        assert other.plan_id != stream.plan_id
        assert len(list(other)) > 1
        with pytest.raises(StreamError, match="changed after it was listed") as caught:
            for _ in stream:
                pass
        assert caught.value.code == "source"


def test_errors_in_the_data_reach_the_consumer(
    start_server: Start, tmp_path: Path, tokenizer_json: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text":"a"}\n{"text":5}\n')
    server = start_server(path)
    with StreamClient([server.url]) as client:
        client.upload_tokenizer(tokenizer_json)
        with pytest.raises(StreamError, match="line 2 holds no text") as caught:
            client.open(plan=make_plan(tokenizer_json), split="train", batch=1)
        assert caught.value.code == "source"
        with pytest.raises(StreamError, match="line 2"):
            client.documents(split="train", fraction=0.1, salt="", max_documents=5)


@pytest.mark.parametrize("harm", ["damaged", "deleted", "unwritable"])
def test_a_harmed_cache_changes_nothing(
    harm: str,
    start_server: Start,
    tmp_path: Path,
    corpus: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    cache = tmp_path / "cache"
    if harm == "unwritable":
        cache.write_text("a file where the folder should be")
    for _ in range(2):
        server = start_server(corpus, cache_dir=cache)
        with StreamClient([server.url]) as client:
            client.upload_tokenizer(tokenizer_json)
            assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        if harm == "damaged":
            for path in cache.rglob("*.tokens"):
                path.write_bytes(os.urandom(path.stat().st_size))
        elif harm == "deleted":
            shutil.rmtree(cache)
    assert ("damaged cache entry" in server.errors) == (harm == "damaged")
    assert server.errors.count("cache bypassed") == (harm == "unwritable")


def test_two_servers_may_share_a_cache(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    servers = [start_server(corpus), start_server(corpus)]
    clients = [StreamClient([server.url]) for server in servers]
    for client in clients:
        client.upload_tokenizer(tokenizer_json)
    streams = [c.open(plan=plan, split="train", batch=3, epochs=2) for c in clients]
    assert [sha256(stream) for stream in streams] == [reference] * 2
    for client in clients:
        client.close()


def test_nothing_is_left_of_a_client(server: ServerProcess, plan: dict[str, Any]) -> None:
    def num_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    threads, files = threading.active_count(), num_files()
    for _ in range(3):
        with StreamClient([server.url]) as client:
            client.info()
            stream = client.open(plan=plan, split="train", batch=3)
            next(stream)
    assert threading.active_count() == threads
    assert num_files() == files


def test_a_waiting_consumer_is_woken_by_close(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
) -> None:
    server = start_server(corpus)
    with StreamClient([server.url]) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3)
        server.kill()
        errors: list[StreamError] = []

        def consume() -> None:
            try:
                for _ in stream:
                    pass
            except StreamError as error:
                errors.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        time.sleep(0.3)
        stream.close()
        consumer.join(5)
        assert [error.code for error in errors] == ["closed"]


def test_the_event_loop_of_the_user_is_left_alone(client: StreamClient) -> None:
    async def inside() -> str:
        return str(client.info()["protocol"])

    assert asyncio.run(inside()).startswith("babygpt")


def test_what_is_asked_of_a_library_that_closes_is_given_up(corpus: Path, tmp_path: Path) -> None:
    async def run() -> None:
        library = Library([SourceSpec(str(corpus))], TokenCache(tmp_path / "cache"))
        started, closed = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            closed.wait(10)
            raise OSError("its store is closed")

        asked = asyncio.create_task(library.quickly(work))
        await asyncio.to_thread(started.wait, 10)
        library.close()
        closed.set()
        with pytest.raises(StoppingError):
            await asked
        with pytest.raises(StoppingError):
            await library.listings()

    asyncio.run(run())
