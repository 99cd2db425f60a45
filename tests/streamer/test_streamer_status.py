"""What a server shows of itself: page, JSON, Prometheus' metrics; and how it says goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_clients import RawSocket, get, metric, wait_until
from streamer_harness import ServerProcess, Socket, ask, epoch, talk

from streamer.client import StreamClient
from streamer.metrics import Metrics
from streamer.prometheus import prometheus
from streamer.protocol import SUBPROTOCOL
from streamer.quantities import duration, quantity, size

Start = Callable[..., ServerProcess]
SAMPLE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"\n]*"\})? [0-9.e+-]+$')


def status(server: ServerProcess) -> dict[str, Any]:
    return dict(json.loads(get(server, "/status.json")))


def test_streams_are_shown_while_they_are_open(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
) -> None:
    server = start_server(corpus)
    found = status(server)
    assert (found["streams"], found["tokens_sent"], found["tokenizers"]) == ([], 0, 0)
    assert [source["num_shards"] for source in found["sources"]] == [7]
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=6, rank=1, world=2, credit=2)
        batches = [next(stream) for _ in range(3)]
        wait_until(lambda: status(server)["streams"][0]["state"] == "credit")
        (shown,) = status(server)["streams"]
        assert shown["plan_id"] == stream.plan_id
        assert (shown["split"], shown["batch"], shown["rank"], shown["world"]) == ("train", 6, 1, 2)
        assert shown["peer"].startswith("127.0.0.1:")
        assert shown["tokens"] >= sum(batch.tokens[:, 1:].size for batch in batches)
        assert set(shown["cursor"]) == {"slot", "sources"}
        assert stream.plan_id[:12] in get(server, "/")
        wait_until(lambda: "waiting for credit for" in get(server, "/"))
        (shown,) = status(server)["streams"]
        assert metric(server, "streams_open") == 1
        assert metric(server, 'connections_open{protocol="v2"}') == 1
    wait_until(lambda: status(server)["streams"] == [])
    found = status(server)
    assert found["connections"] == {"v2": 0, "eir": 0}
    assert found["tokens_sent"] == shown["tokens"]
    assert found["shards"]["prepared"] >= 2


def test_metrics_agree_with_what_was_received(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
) -> None:
    server = start_server(corpus)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        batches = epoch(client, plan, 4)
        again = epoch(client, plan, 4)
    num_tokens = 2 * sum(batch.tokens[:, 1:].size for batch in batches)
    assert len(again) == len(batches)
    assert metric(server, "tokens_sent_total") == num_tokens
    assert metric(server, "frames_sent_total") == 2 * len(batches)
    assert metric(server, "bytes_sent_total") > 2 * num_tokens
    assert metric(server, "opens_total") == 2
    assert metric(server, "shards_prepared_total") == 7
    assert metric(server, "shard_prepare_seconds_total") > 0
    assert metric(server, 'cache_misses_total{kind="disk"}') == 7
    assert metric(server, 'cache_hits_total{kind="memory"}') >= 7
    assert metric(server, "connections_total") == 3

    async def speech(socket: Socket) -> None:
        for _ in range(3):
            assert (await ask(socket, {"op": "nonsense"}))["code"] == "bad_request"

    talk(server.url, speech)
    assert metric(server, 'errors_total{code="bad_request"}') == 3
    assert status(server)["last_errors"][0]["field"] == "op"
    text = get(server, "/metrics")
    assert 'streamer_build_info{version="' in text
    assert re.search(r"^process_resident_memory_bytes [0-9.e+]+$", text, re.MULTILINE)
    assert re.search(r"^process_cpu_seconds_total [0-9.]+$", text, re.MULTILINE)


def test_skipped_documents_are_counted(
    start_server: Start, tmp_path: Path, tokenizer_json: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text":"good"}\n{"text":7}\n{"text":"better"}\n')
    server = start_server(tmp_path / "a.jsonl", "--on-bad-document=skip")
    with StreamClient([server.url], deadline_seconds=20) as client:
        options = {"split": "train", "fraction": 0.0, "salt": "", "max_documents": 9}
        assert client.documents(**options) == ["good", "better"]
    assert metric(server, "skipped_documents_total") == 1
    assert status(server)["skipped_documents"] == 1
    assert "1 bad document left out" in get(server, "/")
    assert metric(server, 'cache_misses_total{kind="text"}') >= 1


def test_every_line_is_prometheus_text() -> None:
    metrics = Metrics()
    metrics.refused['a "quoted" \\ name\n'] += 1
    families: set[str] = set()
    for line in prometheus(metrics).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in families
            assert (kind == "counter") == name.endswith("_total")
            families.add(name)
        elif not line.startswith("# HELP "):
            assert SAMPLE.match(line) or line == (
                'streamer_refused_total{reason="a \\"quoted\\" \\\\ name\\n"} 1'
            )
            assert line.split("{")[0].split(" ")[0] in families


def test_the_page_stands_alone(start_server: Start, tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    (folder / "<b>.jsonl").write_text('{"text":"a"}\n')
    server = start_server(folder)

    async def speech(socket: Socket) -> None:
        assert (await ask(socket, {"op": "<img src=x>"}))["op"] == "error"
        assert (await ask(socket, {"<img src=x>": 1, "op": "info"}))["op"] == "error"

    talk(server.url, speech)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=20) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;img" in page
    assert "default-src 'none'" in policy
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"script-src 'nonce-{nonce}'" in policy
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert set(links) == {"data:,", "status.json", "metrics"}  # relative: a proxy has a prefix
    assert nonce not in get(server, "/")


def test_a_websocket_is_no_page(server: ServerProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(server, "/ws")
    with caught.value as error:
        assert error.code == 400
        assert "WebSocket" in error.read().decode()


def test_everybody_is_told_when_a_server_stops(
    start_server: Start, corpus: Path, cache_dir: Path, opening: dict[str, Any], tokenizer_json: str
) -> None:
    """Ninety clients that listen, and ten that have stopped to read."""
    server = start_server(corpus, cache_dir=cache_dir)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
    deaf = [RawSocket(server.port, buffer_bytes=1 << 16) for _ in range(10)]
    for raw in deaf:
        raw.send(json.dumps(opening | {"batch": 16_384, "credit": 64}).encode())
    seconds = asyncio.run(_stop_with_listeners(server, 90))
    assert seconds < 5
    for raw in deaf:
        raw.socket.close()
    server.wait()
    assert server.process.returncode == 0
    assert "Traceback" not in server.errors
    assert "stopped" in server.errors


async def _stop_with_listeners(server: ServerProcess, num_listeners: int) -> float:
    """The seconds that a server takes to end while so many clients listen."""

    async def listen(socket: aiohttp.ClientWebSocketResponse) -> None:
        assert json.loads(await socket.receive_str())["op"] == "bye"
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1012

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [
            await session.ws_connect(server.url, protocols=(SUBPROTOCOL,), max_msg_size=0)
            for _ in range(num_listeners)
        ]
        while True:
            async with session.get(f"http://127.0.0.1:{server.port}/status.json") as answer:
                if (await answer.json())["connections"]["v2"] == num_listeners + 10:
                    break
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await asyncio.gather(*(listen(socket) for socket in sockets))
            while server.process.poll() is None:
                await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        with contextlib.suppress(aiohttp.ClientError):
            await asyncio.gather(*(socket.close() for socket in sockets))
    return seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (45_600_000, "45.6 M"),
        (999_499_999, "999 M"),
        (999_500_000, "1.00 G"),
        (7.5e15, "7500 T"),
    ],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


def test_sizes_and_durations() -> None:
    assert (size(12), size(66_800_000)) == ("12 B", "66.8 MB")
    seconds = (0, 5, 59.7, 65, 3605, 3660, 90_000, 864_000)
    words = ["0 s", "5 s", "1 min", "1 min 5 s", "1 h", "1 h 1 min", "1 d 1 h", "10 d"]
    assert [duration(number) for number in seconds] == words
