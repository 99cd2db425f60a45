"""One connection to a server of EIR's protocol, with one request under way at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from streamer.transport import FAULTS, StreamError, TransientError

CONNECT_SECONDS = 10.0
REPLY_SECONDS = 35.0
"""A server may fetch its text while we wait, and be silent for 30 s."""
MAX_MESSAGE_BYTES = 64 << 20
MAX_UNREAD = 8
"""Messages that may wait to be read; whoever sends more that nobody asked for has to wait."""


class UnexpectedReplyError(TransientError):
    """An `error`, or something that is no answer to what was asked."""


class Conversation:
    """Asks and gets answers, which the protocol matches by their order alone.

    Between question and answer, and while nothing is asked, a server may send `reset` (to all its
    clients, for one of them) and `heartbeat`; both are left out. Pings are answered all the time.
    """

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, on_reset: Callable[[], None]
    ) -> None:
        self._socket = socket
        self._on_reset = on_reset
        self._messages: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue(MAX_UNREAD)
        self._reading = asyncio.create_task(self._read())

    async def ask(self, message: dict[str, Any], expected: str) -> dict[str, Any]:
        """The reply of type `expected`; raises TransientError, or StreamError for good."""
        if not self._messages.empty():
            self._answer(self._messages.get_nowait(), "silence")
        async with asyncio.timeout(REPLY_SECONDS):
            await self._socket.send_json(message)
            return self._answer(await self._messages.get(), expected)

    def _answer(self, reply: dict[str, Any] | Exception, expected: str) -> dict[str, Any]:
        if isinstance(reply, Exception):
            raise reply
        if reply["type"] == expected:
            return reply
        if reply["type"] == "error":
            payload = reply.get("payload")
            said = payload.get("message") if isinstance(payload, dict) else payload
            raise UnexpectedReplyError(f"error: {said}")
        raise UnexpectedReplyError(f"{str(reply['type'])[:50]!r} in place of {expected!r}")

    async def _read(self) -> None:
        try:
            while True:
                message = read_message(await self._socket.receive(), self._socket)
                if message["type"] == "reset":
                    self._on_reset()
                elif message["type"] != "heartbeat":
                    await self._messages.put(message)
        except (StreamError, *FAULTS) as error:
            await self._messages.put(error)

    async def close(self) -> None:
        """Ends the connection."""
        self._reading.cancel()
        await asyncio.wait({self._reading})
        await self._socket.close()


def read_message(
    frame: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse
) -> dict[str, Any]:
    """The JSON object with a `type` in a frame; raises as `ask` does."""
    if frame.type is aiohttp.WSMsgType.ERROR:
        if getattr(frame.data, "code", None) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            limit = f"{MAX_MESSAGE_BYTES >> 20} MiB"
            raise StreamError("limit", "batch_size", f"a reply above {limit}: lower batch_size")
        raise TransientError(f"connection lost ({frame.data})")
    if frame.type is not aiohttp.WSMsgType.TEXT:
        raise TransientError(f"connection closed ({socket.close_code})")
    try:
        value = json.loads(frame.data)
    except (ValueError, RecursionError) as error:
        raise UnexpectedReplyError("a message that is no JSON") from error
    if not isinstance(value, dict) or "type" not in value:
        raise UnexpectedReplyError("a message without type")
    return value


async def dial(
    session: aiohttp.ClientSession, url: str, name: str, on_reset: Callable[[], None]
) -> Conversation:
    """A connection to `url`, shown as `name`; raises StreamError where it is pointless.

    We send no pings: such servers do not answer while they read their source.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            socket = await session.ws_connect(
                url,
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
    except aiohttp.InvalidURL as error:
        raise StreamError("refused", "url", f"{name} is not a ws:// or wss:// address") from error
    except aiohttp.WSServerHandshakeError as error:
        if 400 <= error.status < 500 and error.status not in (408, 429):
            message = f"{name} refused the connection with HTTP {error.status}"
            raise StreamError("refused", "url", message) from error
        raise
    return Conversation(socket, on_reset)
