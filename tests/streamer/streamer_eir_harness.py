"""What the tests of EIR's protocol share: a server, and a client as strict as EIR's own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web

from streamer.cache import TokenCache
from streamer.eir.connection import EirConnection
from streamer.eir.messages import MAX_MESSAGE_BYTES
from streamer.eir.session import Sessions, Timing
from streamer.library import Library
from streamer.sources.spec import SourceSpec

Texts = dict[str, str]
HANDSHAKE = {"type": "handshake", "version": "1.0", "worker_id": 0}
QUICK = Timing(gathering_seconds=0.2, heartbeat_seconds=5.0, error_seconds=0.01)
PATIENT = dataclasses.replace(QUICK, gathering_seconds=1.0)
"""Where several workers have to find one another."""


class Server:
    """The protocol by itself, in this process, so that its patience can be chosen."""

    def __init__(self, source: Path, cache_dir: Path, timing: Timing) -> None:
        self.library = Library([SourceSpec(str(source))], TokenCache(cache_dir))
        self.sessions = Sessions(timing)
        self.url = ""

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, compress=False, timeout=2)
        await socket.prepare(request)
        assert request.transport is not None
        abort = request.transport.abort
        await EirConnection(socket, abort, self.library, self.sessions, request.query).serve()
        return socket

    @property
    def num_connections(self) -> int:
        return sum(len(found.connections) for found in self.sessions._sessions.values())


@contextlib.asynccontextmanager
async def serving(
    source: Path, tmp_path: Path, timing: Timing
) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    server = Server(source, tmp_path / "cache", timing)
    application = web.Application()
    application.router.add_get("/ws", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    try:
        async with aiohttp.ClientSession() as http:
            yield server, http
    finally:
        server.library.close()
        await runner.cleanup()


Speech = Callable[[Server, aiohttp.ClientSession], Awaitable[None]]


def serve(source: Path, tmp_path: Path, speech: Speech, timing: Timing = QUICK) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), serving(source, tmp_path, timing) as (server, http):
            await speech(server, http)

    asyncio.run(run())


class Client:
    """A connection, and the ways in which `eirtrain` uses one."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    @classmethod
    async def dial(cls, http: aiohttp.ClientSession, url: str) -> Client:
        client = cls(await http.ws_connect(url, max_msg_size=1 << 26))
        assert await client.ask(HANDSHAKE) == {"type": "handshake", "version": "1.0"}
        return client

    @classmethod
    async def worker(cls, http: aiohttp.ClientSession, url: str) -> Client:
        """As a data loader's worker begins: four requests, and a heartbeat that nobody reads."""
        client = await cls.dial(http, url)
        await client.validate()
        await client.send({"type": "heartbeat"})
        return client

    async def send(self, message: Any) -> None:
        await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        return dict(json.loads(await self.socket.receive_str()))

    async def ask(self, message: Any) -> dict[str, Any]:
        await self.send(message)
        return await self.receive()

    async def validate(self) -> dict[str, Any]:
        assert (await self.ask({"type": "getInfo"}))["type"] == "info"
        (sample,) = (await self.ask(data_request(1)))["payload"]
        assert (await self.ask({"type": "heartbeat"})) == {"type": "heartbeat"}
        assert (await self.ask({"type": "reset"}))["type"] == "resetConfirmation"
        assert (await self.receive())["type"] == "reset"
        return dict(sample)

    async def fetch(self, batch_size: int) -> Texts:
        """One more batch, and one message read for two that are sent; none at the end."""
        await self.send({"type": "heartbeat"})
        reply = await self.ask(data_request(batch_size))
        assert reply["type"] == "data", reply
        if reply["payload"] == ["terminate"]:
            await self.expect_close(1000)
            return {}
        assert 1 <= len(reply["payload"]) <= batch_size
        return texts_of(reply["payload"])

    async def read_all(self, batch_size: int) -> Texts:
        """What is left of an epoch, and its end."""
        found: Texts = {}
        while texts := await self.fetch(batch_size):
            assert not found.keys() & texts.keys()
            found |= texts
        return found

    async def expect_close(self, code: int) -> None:
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        assert self.socket.close_code == code

    async def close(self) -> None:
        await self.socket.close()


def data_request(batch_size: object) -> dict[str, Any]:
    return {"type": "getData", "payload": {"batch_size": batch_size}}


def texts_of(payload: list[dict[str, Any]]) -> Texts:
    found = {}
    for sample in payload:
        assert sample.keys() == {"inputs", "target_labels", "sample_id"}
        text = sample["inputs"]["text_output"]
        assert sample["target_labels"] == {"text_output": {"text_output": text}}
        found[sample["sample_id"]] = text
    assert len(found) == len(payload)
    return found


async def read_epoch(http: aiohttp.ClientSession, url: str, batch_size: int = 64) -> Texts:
    return await (await Client.worker(http, url)).read_all(batch_size)


async def hold_out(http: aiohttp.ClientSession, url: str, ids: Any) -> dict[str, Any]:
    client = await Client.dial(http, url)
    payload = {"validation_ids": ids}
    reply = await client.ask({"type": "setValidationIds", "payload": payload})
    await client.close()
    return reply


async def set_up(http: aiohttp.ClientSession, url: str, num_samples: int, every: int) -> Texts:
    """All that `eirtrain` does before it trains; every so many-th sample is held out."""
    client = await Client.dial(http, url)
    assert (await client.ask({"type": "status"}))["payload"]["active_connections"] == 1
    await client.close()
    client = await Client.dial(http, url)
    first = await client.validate()
    await client.ask({"type": "getInfo"})
    samples: Texts = {}
    while len(samples) < num_samples:
        samples |= texts_of((await client.ask(data_request(32)))["payload"])
    assert next(iter(samples)) == first["sample_id"]
    await client.close()
    client = await Client.dial(http, url)
    await client.send({"type": "reset", "payload": {}})
    assert [(await client.receive())["type"] for _ in "ab"] == ["resetConfirmation", "reset"]
    await client.close()
    ids = list(samples)[::every]
    for _ in range(2):  # each rank does
        reply = await hold_out(http, url, ids)
        assert reply["type"] == "validationIdsConfirmation"
        assert f"{len(ids)} samples" in reply["payload"]["message"]
    return {name: samples[name] for name in ids}


def put_together(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Documents in the order of the corpus."""
    pieces: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    for name, text in texts:
        _, shard, document, piece = name.split("-")
        pieces[int(shard), int(document)][int(piece)] = text
    return ["".join(found[n] for n in range(len(found))) for _, found in sorted(pieces.items())]


def with_words(documents: list[str]) -> list[str]:
    return [text for text in documents if text.strip()]


def merge(parts: Iterable[Texts]) -> Texts:
    return {name: text for part in parts for name, text in part.items()}


def write_small(folder: Path) -> Path:
    """Twenty documents in four shards, three of them the same."""
    texts = [f"document {number}\n\twith\r\n white  space " for number in range(17)]
    path = folder / "small.parquet"
    table = pa.table({"text": [*texts[:9], "twin", *texts[9:], "twin", "twin"]})
    pq.write_table(table, path, row_group_size=6)
    return path
