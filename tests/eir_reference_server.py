"""A small server of EIR's protocol 1.0 that behaves as those of EIR do, with all their traps.

Like them it has one position for all its clients, knows nothing of whitespace, loses what is left
of a batch's text, and tells everybody when somebody has it rewound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

OUTPUT = "text_output"
EOT = "<|endoftext|>"
SECONDS = 30


def sample_of(text: str, number: int, output: str = OUTPUT) -> dict[str, Any]:
    return {
        "inputs": {output: text},
        "target_labels": {output: {output: text}},
        "sample_id": f"sample_{number}",
    }


@dataclass
class Traps:
    """How the server behaves; as EIR's text server by default, but for its endless text."""

    words: int | None = None
    """Words a sample, cut and joined as by EIR; None sends each document whole, as a sample."""
    ends: bool = True
    """Whether the text comes to an end, or else begins again without a word."""
    end: list[str] = field(default_factory=lambda: ["terminate"])
    """The payload that says so."""
    after_end: str = "close"
    """Or `stay`, or `data`: another data frame, and the connection stays."""
    begins_again: bool = False
    """Whether it begins again by itself after an end."""
    confirms_first: bool = True
    """Whether a reset is confirmed before it is broadcast."""
    num_broken_resets: int = 0
    """Resets in place of which the connection is closed."""
    outputs: dict[str, Any] = field(
        default_factory=lambda: {OUTPUT: {"type": "sequence", "shape": None}}
    )
    version: str = "1.0"
    fault: Callable[[int], str | None] = lambda number: None
    """What happens to the n-th request for data: close, abort, error, unknown, silence, chatter,
    garbage, or a JSON text to be sent in place of the samples."""
    silent_seconds: float = 0.0


class EirReferenceServer:
    """Serves `documents` on loopback from a thread; a context manager."""

    def __init__(self, documents: Sequence[str], traps: Traps | None = None, port: int = 0) -> None:
        self.documents = list(documents)
        self.traps = traps or Traps()
        self.port = port
        self.position = self.num_samples = self.num_requests = self.num_connections = 0
        self.num_resets = 0
        self.sizes: list[int] = []
        self.sent: list[str] = []
        """Every text that was sent, in order."""
        self.seen: list[str] = []
        """The type of every message that came."""
        self.has_ended = False
        self.authorization: list[str] = []
        self.clients: set[web.WebSocketResponse] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> EirReferenceServer:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self.loop).result(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/ws", self.serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    def rewind(self) -> None:
        """What another client does: resets, and everybody is told."""
        asyncio.run_coroutine_threadsafe(self.reset(None), self.loop).result(SECONDS)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self.num_connections += 1
        self.authorization.append(request.headers.get("Authorization", ""))
        hello = await socket.receive_json()
        if hello["type"] != "handshake" or hello["version"] != self.traps.version:
            await say(socket, "error", {"message": "Incompatible protocol version"})
            await socket.close()
            return socket
        self.clients.add(socket)
        try:
            await socket.send_json({"type": "handshake", "version": self.traps.version})
            async for frame in socket:
                if frame.type is WSMsgType.TEXT and not await self.answer(
                    socket, request, json.loads(frame.data)
                ):
                    break
        except ConnectionError:
            pass
        finally:
            self.clients.discard(socket)
        await socket.close()
        return socket

    async def answer(
        self, socket: web.WebSocketResponse, request: web.Request, message: dict[str, Any]
    ) -> bool:
        """Whether the connection goes on."""
        kind = message["type"]
        self.seen.append(kind)
        if kind == "getInfo":
            await say(socket, "info", {"inputs": {}, "outputs": self.traps.outputs})
        elif kind == "getData":
            return await self.give(socket, request, message["payload"]["batch_size"])
        elif kind == "reset":
            if self.seen.count("reset") <= self.traps.num_broken_resets:
                return False
            await self.reset(socket)
        elif kind == "heartbeat":
            await socket.send_json({"type": "heartbeat"})
        return True

    async def reset(self, requester: web.WebSocketResponse | None) -> None:
        self.position, self.has_ended = 0, False
        self.num_resets += 1
        confirmation = ("resetConfirmation", {"message": "Reset successful"})
        if requester is not None and self.traps.confirms_first:
            await say(requester, *confirmation)
        for client in list(self.clients):
            await say(client, "reset", {"message": "Reset command received"})
        if requester is not None and not self.traps.confirms_first:
            await say(requester, *confirmation)

    async def give(self, socket: web.WebSocketResponse, request: web.Request, size: int) -> bool:
        """Answers a request for data, or does what the traps say."""
        number, self.num_requests = self.num_requests, self.num_requests + 1
        self.sizes.append(size)
        fault = self.traps.fault(number)
        if fault == "close":
            return False
        if fault == "abort":
            assert request.transport is not None
            request.transport.abort()
            return False
        if fault == "error":
            await say(socket, "error", {"message": "no\ndata today"})
        elif fault == "unknown":
            await say(socket, "news", {})
        elif fault == "garbage":
            await socket.send_str("{")
        elif fault == "silence":
            await asyncio.sleep(self.traps.silent_seconds)
        elif fault == "chatter":
            for kind in ("heartbeat", "reset", "heartbeat"):
                await socket.send_json({"type": kind})
        elif fault is not None:
            await say(socket, "data", json.loads(fault))
        if fault in (None, "silence", "chatter"):
            return await self.give_samples(socket, size)
        return True

    async def give_samples(self, socket: web.WebSocketResponse, size: int) -> bool:
        if self.has_ended and self.traps.begins_again:
            self.position, self.has_ended = 0, False
        texts = self.next_texts(size)
        if texts:
            samples = [sample_of(text, self.num_samples + n) for n, text in enumerate(texts)]
            self.num_samples += len(texts)
            self.sent += texts
            await say(socket, "data", samples)
            return True
        self.has_ended = True
        await say(socket, "data", self.traps.end)
        if self.traps.after_end == "data":
            await say(socket, "data", [sample_of("after the end", -1)])
        return self.traps.after_end != "close"

    def next_texts(self, size: int) -> list[str]:
        """At most `size` samples; in EIR's way what is left of the words is forgotten."""
        texts: list[str] = []
        words: list[str] = []
        while len(texts) < size and self.documents:
            if self.position == len(self.documents):
                if self.traps.ends:
                    break
                self.position = 0
            document = self.documents[self.position]
            self.position += 1
            if self.traps.words is None:
                texts.append(document)
                continue
            words += ([EOT] if words else []) + document.split()
            while len(words) >= self.traps.words and len(texts) < size:
                texts.append(" ".join(words[: self.traps.words]))
                words = words[self.traps.words :]
        return texts


async def say(socket: web.WebSocketResponse, kind: str, payload: Any) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_json({"type": kind, "payload": payload})
