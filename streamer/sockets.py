"""What the connections of both protocols do with their sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

GOODBYE_SECONDS = 2.0
"""Time that a client has to take note of the end."""
KEEPALIVE_SECONDS = 60
"""Silence after which the client's machine, not the busy client, is asked for a sign of life."""


class Sending:
    """A send with a deadline: a client that does not read is cut off, as nothing else helps."""

    def __init__(self, abort: Callable[[], None], seconds: float) -> None:
        self._abort = abort
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError as error:
            self._abort()
            raise ConnectionResetError("the client does not read") from error


def keep_alive(response: web.WebSocketResponse) -> None:
    """Has the kernel find out that a client's machine is gone: a ping would wait for a GPU step."""
    peer = response.get_extra_info("socket")
    if peer is not None and hasattr(socket, "TCP_KEEPIDLE"):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // 4)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
