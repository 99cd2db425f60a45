"""How our server of EIR's protocol answers, what it refuses, and when it hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from streamer_eir_harness import (
    HANDSHAKE,
    QUICK,
    Client,
    Server,
    data_request,
    hold_out,
    read_epoch,
    serve,
    write_small,
)
from streamer_harness import ServerProcess

from streamer.eir.messages import MAX_ERRORS, MAX_MESSAGE_BYTES
from streamer.eir.session import Timing


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path)


def test_when_all_is_held_out_there_is_nothing_to_train_on(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        await hold_out(http, server.url, list(await read_epoch(http, server.url)))
        client = await Client.dial(http, server.url)
        reply = await client.ask(data_request(1))
        assert reply["type"] == "error"
        assert "fewer validation ids" in reply["payload"]["message"]
        assert (await client.ask(data_request(8)))["payload"] == ["terminate"]
        await client.expect_close(1000)

    serve(small, tmp_path, speech)


def test_each_request_has_one_reply_however_they_are_sent(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.worker(http, server.url)
        for _ in range(4):
            for message in ({"type": "heartbeat"}, data_request(1)):
                await client.send(message)
        await client.send({"type": "status"})
        kinds = [(await client.receive())["type"] for _ in range(5)]
        assert kinds == ["data"] * 4 + ["status"]
        await client.send({"type": "heartbeat"})
        assert [await client.ask({"type": "heartbeat"}), await client.receive()] == [
            {"type": "heartbeat"}
        ] * 2  # nothing followed
        with pytest.raises(TimeoutError):
            await client.socket.receive(0.3)

    serve(small, tmp_path, speech, dataclasses.replace(QUICK, heartbeat_seconds=0.5))


BAD_REQUESTS = [
    *((data_request(value), "batch_size") for value in (0, -1, 4097, 10**9, 1.5, "8", None, True)),
    ({"type": "getData", "payload": {}}, "batch_size"),
    ({"type": "getData", "payload": 3}, "payload"),
    ({"type": "getData"}, "payload"),
    ({"type": "setValidationIds", "payload": {"validation_ids": "a"}}, "validation_ids"),
    ({"type": "setValidationIds", "payload": {"validation_ids": [1]}}, "validation_ids"),
    ({"type": "setValidationIds", "payload": {"validation_ids": ["sample_1"]}}, "validation_ids"),
    ({"type": "setValidationIds", "payload": {"validation_ids": ["0" * 16 + "-0-0-0"]}}, "sample"),
    ({"type": "fly"}, "type"),
    ({"type": ["getData"]}, "type"),
    ({}, "type"),
    ({"op": "open", "stream": 1}, "babygpt.stream.v2"),
    ({"type": "handshake", "version": "2.0"}, "version"),
    ([1], "object"),
    ("{", "JSON"),
    ("[" * 50_000, "JSON"),
    ('{"type": "\\ud800"}', "type"),
]


def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(
    small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        for start in range(0, len(BAD_REQUESTS), 15):
            client = await Client.worker(http, server.url)
            found = await client.fetch(4)
            for message, named in BAD_REQUESTS[start : start + 15]:
                reply = await client.ask(message)
                assert reply.keys() == {"type", "payload"}
                assert reply["type"] == "error", message
                assert named in reply["payload"]["message"], message
                assert "\n" not in reply["payload"]["message"]
            await client.socket.send_bytes(b"\0")
            assert "binary" in (await client.receive())["payload"]["message"]
            found |= await client.read_all(4)
            assert len(found) == 20

    serve(small, tmp_path, speech)


def test_ids_of_pieces_that_are_not_there_are_none(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        known = next(iter(await read_epoch(http, server.url)))
        prefix = known.split("-")[0]
        for name in ("99-0-0", "0-99-0", "0-0-1", "00-0-0"):
            reply = await hold_out(http, server.url, [known, f"{prefix}-{name}"])
            assert reply["type"] == "error"
        assert len(await read_epoch(http, server.url)) == 20

    serve(small, tmp_path, speech)


def test_errors_take_time_and_too_many_close(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.dial(http, server.url)
        began = asyncio.get_running_loop().time()
        for _ in range(MAX_ERRORS + 5):  # as a client that tries again at once
            await client.send(data_request(0))
        for _ in range(MAX_ERRORS):
            assert (await client.receive())["type"] == "error"
        assert asyncio.get_running_loop().time() - began >= MAX_ERRORS * 0.03
        await client.expect_close(1008)

    serve(small, tmp_path, speech, Timing(error_seconds=0.03))


@pytest.mark.parametrize(
    ("message", "query", "code", "named"),
    [
        ({"type": "handshake", "version": "2.0"}, "", 1002, "version"),
        ({"type": "handshake"}, "", 1002, "version"),
        ({"type": "getInfo"}, "", 1002, "handshake"),
        ({"op": "info"}, "", 1002, "babygpt.stream.v2"),
        ("garbage", "", 1002, "JSON"),
        (b"\0", "", 1002, "binary"),
        (None, "", 1008, "handshake"),
        (HANDSHAKE, "?words=0", 1008, "words"),
        (HANDSHAKE, "?words=100001", 1008, "words"),
        (HANDSHAKE, "?words=ten", 1008, "words"),
        (HANDSHAKE, "?epochs=-1", 1008, "epochs"),
        (HANDSHAKE, "?sesion=a", 1008, "sesion"),
        (HANDSHAKE, "?session=", 1008, "session"),
        (HANDSHAKE, "?session=" + "a" * 101, 1008, "session"),
    ],
)
def test_a_handshake_that_fails_ends_the_connection(
    message: Any, query: str, code: int, named: str, small: Path, tmp_path: Path
) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = Client(await http.ws_connect(server.url + query))
        if isinstance(message, bytes):
            await client.socket.send_bytes(message)
        elif message is not None:
            await client.send(message)
        reply = await client.receive()
        assert reply["type"] == "error"
        assert named in reply["payload"]["message"]
        await client.expect_close(code)
        assert not server.num_connections

    serve(small, tmp_path, speech, Timing(handshake_seconds=0.2 if message is None else 10))


def test_a_source_that_fails_is_told_and_ends_the_connection(small: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.worker(http, server.url)
        assert len(await client.fetch(6)) == 6
        small.write_bytes(b"no longer what it was")
        taken = 0
        while (reply := await client.ask(data_request(6)))["type"] == "data":
            taken += len(reply["payload"])  # what has been read ahead
        assert taken <= 12
        assert str(small) in reply["payload"]["message"]
        await client.expect_close(1011)
        late = Client(await http.ws_connect(server.url))
        await late.ask(HANDSHAKE)
        assert (await late.ask({"type": "reset"}))["type"] == "error"
        await late.expect_close(1011)

    serve(small, tmp_path, speech)


def test_who_does_not_read_is_cut_off(corpus: Path, tmp_path: Path) -> None:
    async def speech(server: Server, http: aiohttp.ClientSession) -> None:
        client = await Client.worker(http, f"{server.url}?epochs=1000")
        other = await Client.dial(http, f"{server.url}?session=other")
        asking = asyncio.create_task(flood(client))
        while server.num_connections == 2:
            await other.ask({"type": "status"})
            await asyncio.sleep(0.02)
        asking.cancel()
        await other.validate()
        assert len(await other.fetch(32)) == 32

    async def flood(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await client.send(data_request(256))

    serve(corpus, tmp_path, speech, Timing(send_seconds=0.5))


def test_the_server_speaks_it_where_no_subprotocol_is_offered(server: ServerProcess) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            client = await Client.worker(http, f"{server.url}?session=process")
            texts = await client.fetch(32)
            assert len(texts) == 32
            with contextlib.suppress(ConnectionError):  # it may be closed before all is sent
                await client.send("[" + " " * MAX_MESSAGE_BYTES + "]")
                await client.expect_close(1009)
            await (await Client.worker(http, server.url)).fetch(32)
            metrics = server.url.replace("ws://", "http://").replace("/ws", "/metrics")
            async with http.get(metrics) as answer:
                lines = (await answer.text()).splitlines()
        (sent,) = (line for line in lines if line.startswith("streamer_samples_sent_total "))
        assert int(sent.split()[1]) >= 64

    asyncio.run(run())


def test_a_server_that_stops_says_so(
    corpus: Path, start_server: Callable[..., ServerProcess]
) -> None:
    process = start_server(corpus)

    async def run() -> None:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            client = await Client.worker(http, process.url)
            await client.fetch(1)
            process.signal(signal.SIGTERM)
            await client.expect_close(1012)

    asyncio.run(run())
    assert process.wait() == 0
    assert "Traceback" not in process.errors
