"""The protocol, spoken by hand: every message that must be refused, and what follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from streamer_harness import ServerProcess, Socket, ask, talk

from streamer.protocol import decode_frames


def test_twenty_errors_end_a_connection(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        for _ in range(20):
            assert (await ask(socket, "nonsense"))["code"] == "bad_request"
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1008

    talk(server.url, speech)


def test_an_unknown_subprotocol_is_refused(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        assert json.loads(await socket.receive_str())["op"] == "error"
        await socket.receive()
        assert socket.close_code == 1002

    talk(server.url, speech, protocols=("soap",))


def test_binary_garbage_ends_a_connection(server: ServerProcess) -> None:
    async def speech(socket: Socket) -> None:
        await socket.send_bytes(b"\xff" * 10)
        await socket.receive()
        assert socket.close_code == 1003

    talk(server.url, speech)


def test_a_bomb_ends_its_own_connection_only(server: ServerProcess) -> None:
    async def bomb(socket: Socket) -> None:
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(b"\xff" * (40 << 20))
        await socket.receive()
        assert socket.close_code in (1006, 1009)

    async def info(socket: Socket) -> None:
        assert (await ask(socket, {"op": "info"}))["op"] == "info"

    talk(server.url, bomb)
    talk(server.url, info)


def test_credit_is_obeyed_and_streams_share_a_connection(
    server: ServerProcess, opening: dict[str, Any]
) -> None:
    async def speech(socket: Socket) -> None:
        async def frames() -> list[tuple[int, int]]:
            found = decode_frames(await socket.receive_bytes())
            return [(header["stream"], header["start"]["slot"]) for header, _, _ in found]

        assert (await ask(socket, opening | {"credit": 2}))["op"] == "opened"
        assert await frames() == [(3, 0), (3, 4)]
        assert (await ask(socket, opening | {"stream": 4, "credit": 0}))["stream"] == 4
        assert (await ask(socket, opening))["field"] == "stream"
        await socket.send_json({"op": "credit", "stream": 4, "batches": 1})
        assert await frames() == [(4, 0)]
        await socket.send_json({"op": "credit", "stream": 3, "batches": 1})
        assert await frames() == [(3, 8)]
        await socket.send_json({"op": "close", "stream": 3})
        assert (await ask(socket, opening))["op"] == "opened"
        assert await frames() == [(3, 0)]
        for stream in range(10, 24):
            reply = await ask(socket, opening | {"stream": stream, "credit": 0})
            assert reply["op"] == "opened"
        assert (await ask(socket, opening | {"stream": 30}))["code"] == "limit"

    talk(server.url, speech)


def test_the_end_is_told(server: ServerProcess, opening: dict[str, Any]) -> None:
    async def speech(socket: Socket) -> None:
        await ask(socket, opening | {"batch": 1000, "credit": 5, "epochs": 1})
        ((header, rows, _),) = decode_frames(await socket.receive_bytes())
        end = json.loads(await socket.receive_str())
        assert end == {"op": "end", "stream": 3, "next": header["next"]}
        assert header["next"]["slot"] == len(rows)

    talk(server.url, speech)


def test_text_comes_in_pages(server: ServerProcess, documents: list[str]) -> None:
    async def speech(socket: Socket) -> None:
        message = {"op": "text", "split": "train", "fraction": 0.0, "salt": "", "id": 1}
        found: list[str] = []
        cursor = None
        while True:
            limits = {"max_documents": 40, "max_bytes": 20_000, "cursor": cursor}
            page = await ask(socket, message | limits)
            assert len(page["documents"]) <= 40
            assert sum(map(len, page["documents"])) <= 20_000 or len(page["documents"]) == 1
            found += page["documents"]
            cursor = page["next"]
            if cursor is None:
                break
            stale = cursor | {"fingerprint": "0" * 64}
        assert found == documents
        limits = {"max_documents": 1, "max_bytes": 1, "cursor": stale}
        assert (await ask(socket, message | limits))["code"] == "plan_mismatch"

    talk(server.url, speech)


def test_clients_are_told_that_the_server_stops(
    start_server: Callable[..., ServerProcess], corpus: Path
) -> None:
    own = start_server(corpus)

    async def speech(socket: Socket) -> None:
        assert (await ask(socket, {"op": "info"}))["op"] == "info"
        own.signal(signal.SIGTERM)
        assert json.loads(await socket.receive_str())["op"] == "bye"
        await socket.receive()
        assert socket.close_code == 1012

    talk(own.url, speech)
    assert own.wait() == 0


def test_healthz(server: ServerProcess) -> None:
    async def run() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{server.port}/healthz") as response,
        ):
            assert response.status == 200

    asyncio.run(run())
