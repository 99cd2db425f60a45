"""Clients that misbehave: what ends their connections, and that the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_clients import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    RawSocket,
    connect,
    get,
    metric,
    wait_for_end,
    wait_until,
)
from streamer_harness import ServerProcess, Socket, epoch, sha256, talk

from streamer.client import StreamClient
from streamer.protocol import SUBPROTOCOL

Start = Callable[..., ServerProcess]


def bomb(raw: RawSocket) -> None:
    raw.send(b'"', TEXT, first=0)
    with contextlib.suppress(ConnectionError):
        for _ in range(9):
            raw.send(b"x" * 1000, CONTINUATION, first=0)


CLOSES: dict[str, tuple[Callable[[RawSocket], None], int]] = {
    "frames against RFC 6455": (lambda raw: raw.send(b"{}", first=0xF0), 1002),
    "an unknown kind of frame": (lambda raw: raw.send(b"{}", opcode=3), 1002),
    "a binary message": (lambda raw: raw.send(b"{}", BINARY), 1003),
    "text that is no UTF-8": (lambda raw: raw.send(b'{"op":"\xff\xfe"}'), 1007),
    "a message in one piece": (lambda raw: raw.send(b"x" * 8001), 1009),
    "a message in many pieces": (bomb, 1009),
    "errors": (lambda raw: [raw.send(b"{") for _ in range(5)] and None, 1008),
}


@pytest.mark.parametrize("name", CLOSES)
def test_what_ends_a_connection(small: ServerProcess, name: str) -> None:
    misbehave, code = CLOSES[name]
    before = metric(small, 'refused_total{reason="bad_client"}')
    raw = RawSocket(small.port)
    misbehave(raw)
    assert raw.close_code() == code
    raw.socket.close()
    wait_until(lambda: metric(small, 'refused_total{reason="bad_client"}') == before + 1)


@pytest.mark.parametrize("protocols", [("babygpt.stream.v9",), ("x", "y")])
def test_an_unknown_subprotocol(small: ServerProcess, protocols: tuple[str, ...]) -> None:
    async def speech(socket: Socket) -> None:
        reply = json.loads(await socket.receive_str())
        assert (reply["op"], reply["code"]) == ("error", "bad_request")
        assert SUBPROTOCOL in reply["message"]
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1002

    talk(small.url, speech, protocols)


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_connections(start_server: Start, corpus: Path, cache_dir: Path, limit: str) -> None:
    server = start_server(corpus, f"--limit={limit}=2", cache_dir=cache_dir)

    async def fill(_: Socket) -> None:
        async with aiohttp.ClientSession() as session:
            second = await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            assert caught.value.status == 503
            assert caught.value.headers is not None
            assert int(caught.value.headers["Retry-After"]) > 0
            await second.close()

    talk(server.url, fill)
    with StreamClient([server.url], deadline_seconds=20) as client:
        assert client.info()["limits"][limit] == 2
    assert metric(server, f'refused_total{{reason="{limit}"}}') == 1


def drip(connection: socket.socket) -> None:
    """Sends a header byte by byte until it is cut off."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(b"x")


def post(connection: socket.socket) -> None:
    connection.sendall(b"POST /healthz HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")


@pytest.mark.parametrize("behaviour", [lambda _: None, drip, post], ids=["silent", "drip", "body"])
def test_handshake_seconds(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    behaviour: Callable[[socket.socket], None],
) -> None:
    server = start_server(corpus, "--limit=handshake_seconds=1", cache_dir=cache_dir)
    with connect(server) as slow:
        behaviour(slow)
        wait_for_end(slow)
    assert get(server, "/healthz") == "ok\n"


def test_unfinished_connections_do_not_lock_anybody_out(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    server = start_server(corpus, "--limit=unfinished=128", cache_dir=cache_dir)
    with contextlib.ExitStack() as held, StreamClient([server.url], deadline_seconds=30) as client:
        silent = [held.enter_context(connect(server)) for _ in range(500)]
        client.upload_tokenizer(tokenizer_json)
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        assert wait_for_end(silent[0]) == b""
    assert metric(server, 'refused_total{reason="unfinished"}') >= 500 - 128
    status = Path(f"/proc/{server.process.pid}/fd")
    if status.exists():
        wait_until(lambda: len(os.listdir(status)) < 200)


NO_HTTP = {
    "nonsense": b"\x00\xff" * 2000 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n",
    "a long line": b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http(small: ServerProcess, name: str) -> None:
    before = metric(small, 'refused_total{reason="bad_http"}')
    with connect(small) as connection:
        connection.sendall(NO_HTTP[name])
        assert b"400 Bad Request" in wait_for_end(connection).splitlines()[0]
    assert metric(small, 'refused_total{reason="bad_http"}') == before + 1


def test_failures_have_to_wait(start_server: Start, corpus: Path, cache_dir: Path) -> None:
    limits = ["--limit=failures_per_second=3", "--limit=failures_at_once=3"]
    server = start_server(corpus, *limits, cache_dir=cache_dir)
    began = time.monotonic()
    for _ in range(7):
        with connect(server) as connection:
            connection.sendall(b"NONSENSE\r\n\r\n")
            wait_for_end(connection)
    assert time.monotonic() - began > 1
    assert get(server, "/healthz") == "ok\n"


def test_send_seconds_of_clients_that_do_not_read(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    opening: dict[str, Any],
    tokenizer_json: str,
) -> None:
    """Each could be owed 64 batches of 2 MB, of which the server keeps but a few."""
    server = start_server(corpus, "--limit=send_seconds=2", cache_dir=cache_dir)
    with StreamClient([server.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
    memory = Path(f"/proc/{server.process.pid}/statm")
    before = int(memory.read_text().split()[1]) * 4096
    large = json.dumps(opening | {"batch": 16_384, "credit": 64}).encode()
    raws = [RawSocket(server.port, buffer_bytes=1 << 16) for _ in range(8)]
    for raw in raws:
        raw.send(large)
    wait_until(lambda: metric(server, "streams_open") == 8)
    largest = 0
    while metric(server, 'connections_open{protocol="v2"}'):
        largest = max(largest, int(memory.read_text().split()[1]) * 4096 - before)
        time.sleep(0.1)
    assert largest < 8 * 4 * (8 << 20)
    for raw in raws:
        raw.socket.close()


def test_heartbeat_seconds(start_server: Start, corpus: Path, cache_dir: Path) -> None:
    server = start_server(corpus, "--limit=heartbeat_seconds=0.5", cache_dir=cache_dir)
    raw = RawSocket(server.port)
    assert raw.receive()[0] == PING
    wait_for_end(raw.socket)
    raw.socket.close()
    assert metric(server, 'connections_open{protocol="v2"}') == 0


def test_pings_are_answered(small: ServerProcess) -> None:
    raw = RawSocket(small.port)
    for number in range(50):
        raw.send(b"%d" % number, PING)
    assert [raw.receive() for _ in range(50)] == [(10, b"%d" % number) for number in range(50)]
    raw.socket.close()


def test_bad_clients_change_nothing_for_a_good_one(
    start_server: Start,
    corpus: Path,
    cache_dir: Path,
    plan: dict[str, Any],
    tokenizer_json: str,
    reference: str,
) -> None:
    server = start_server(corpus, cache_dir=cache_dir)

    async def misbehave(number: int, session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            socket = await session.ws_connect(server.url, protocols=(SUBPROTOCOL,))
            for _ in range(20):
                await socket.send_str("garbage" if number % 2 else "[" * 3000)
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            await socket.close()

    async def all_misbehave() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(misbehave(number, session) for number in range(100)))

    with StreamClient([server.url], deadline_seconds=30) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2)
        batches = [next(stream)]
        asyncio.run(all_misbehave())
        assert sha256([*batches, *stream]) == reference
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.errors
