"""Faults: whatever happens to servers and lines, the stream is the undisturbed one."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamer_harness import Proxy, ServerProcess, epoch, sha256

from streamer.client import StreamClient, StreamError

Start = Callable[..., ServerProcess]


@pytest.fixture
def proxied(server: ServerProcess) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(harm: Callable[[int, bytes], bytes | None]) -> Proxy:
        made.append(Proxy(server.port, harm))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def through(proxy: Proxy, plan: dict[str, Any], tokenizer_json: str) -> tuple[str, int]:
    with StreamClient([proxy.url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2)
        return sha256(stream), stream.reconnects


def test_resets_at_many_places_change_nothing(
    proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    counts = iter([5000 + 1777 * i for i in range(12)])
    wanted = [next(counts)]

    def harm(sent: int, data: bytes) -> bytes | None:
        if sent + len(data) < wanted[0]:
            return data
        wanted[0] = sent + next(counts, 1 << 60)
        return None

    digest, reconnects = through(proxied(harm), plan, tokenizer_json)
    assert digest == reference
    assert reconnects >= 5


def test_a_flipped_bit_is_asked_for_again(
    proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    flipped: list[int] = []

    def harm(sent: int, data: bytes) -> bytes:
        if sent // 20_000 > len(flipped) and len(data) > 300:
            flipped.append(sent)
            damaged = bytearray(data)
            damaged[250] ^= 1
            return bytes(damaged)
        return data

    digest, reconnects = through(proxied(harm), plan, tokenizer_json)
    assert digest == reference
    assert reconnects > 0


def test_a_line_that_always_flips_is_given_up(
    proxied: Any, plan: dict[str, Any], tokenizer_json: str
) -> None:
    def harm(sent: int, data: bytes) -> bytes:
        place = data.find(b'"crc32":')
        return data if place < 0 else data[: place + 60] + b"\0\1\2\3" + data[place + 64 :]

    with pytest.raises(StreamError) as caught:
        through(proxied(harm), plan, tokenizer_json)
    assert caught.value.code == "corrupt_frame"


def test_single_bytes_change_nothing(
    proxied: Any, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    def harm(sent: int, data: bytes) -> bytes:
        time.sleep(0.0001)
        return data

    proxy = proxied(harm)
    forward = proxy.forward

    def slowly(source: socket.socket, sink: socket.socket, harm: Any = None) -> None:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        forward(source, sink, harm)

    proxy.forward = slowly
    assert through(proxy, plan, tokenizer_json) == (reference, 0)


def test_a_killed_server_that_comes_back_changes_nothing(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    servers = [start_server(corpus)]
    with StreamClient([servers[0].url], deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
        batches = []
        for index, batch in enumerate(stream):
            batches.append(batch)
            if index in (5, 30):
                servers[-1].kill()
                servers.append(start_server(corpus, port=servers[0].port))
        assert sha256(batches) == reference
        assert stream.reconnects == 2


def test_one_of_two_servers_is_enough(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str, reference: str
) -> None:
    servers = [start_server(corpus), start_server(corpus)]
    urls = [server.url for server in servers]
    with StreamClient(urls, deadline_seconds=20) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
        batches = []
        for index, batch in enumerate(stream):
            batches.append(batch)
            if index == 9:
                servers[0].kill()
        assert sha256(batches) == reference
        assert stream.reconnects == 1


def test_an_absent_server_is_waited_for_until_the_deadline(plan: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
    with StreamClient([url], deadline_seconds=1.5) as client:
        began = time.monotonic()
        for call in (client.info, lambda: client.open(plan=plan, split="train", batch=1)):
            with pytest.raises(StreamError, match="no progress for 1") as caught:
                call()
            assert caught.value.code == "deadline"
            assert url in str(caught.value)
            assert "\n" not in str(caught.value)
        assert 3 <= time.monotonic() - began < 6


def test_a_silent_server_ends_at_the_deadline(
    start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
) -> None:
    server = start_server(corpus)
    with StreamClient([server.url], deadline_seconds=2) as client:
        client.upload_tokenizer(tokenizer_json)
        stream = client.open(plan=plan, split="train", batch=3, credit=2)
        next(stream)
        time.sleep(3)  # nothing is owed while nothing is taken, so that no deadline passes
        next(stream)
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(StreamError) as caught:
            for _ in stream:
                pass
        assert caught.value.code == "deadline"
        assert time.monotonic() - began < 6
        server.signal(signal.SIGCONT)


@pytest.mark.parametrize("url", ["http//nowhere", "ws://127.0.0.1:PORT/wrong"])
def test_a_wrong_address_is_refused_at_once(server: ServerProcess, url: str) -> None:
    client = StreamClient([url.replace("PORT", str(server.port))])
    with client, pytest.raises(StreamError) as caught:
        client.info()
    assert caught.value.code == "refused"


def test_a_stalled_client_does_not_hurt_another(
    server: ServerProcess, client: StreamClient, plan: dict[str, Any], reference: str
) -> None:
    stalled = [client.open(plan=plan, split="train", batch=64, credit=64) for _ in range(4)]
    assert sha256(epoch(client, plan, 3, epochs=2)) == reference
    for stream in stalled:
        stream.close()


def test_a_client_that_never_reads_does_not_hurt_another(
    server: ServerProcess, client: StreamClient, plan: dict[str, Any], reference: str
) -> None:
    request = (
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: babygpt.stream.v2\r\n\r\n"
    )
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for line in lines:
        line.sendall(request.encode())
    assert sha256(epoch(client, plan, 3, epochs=2)) == reference
    for line in lines:
        line.close()
