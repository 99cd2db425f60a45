"""The gate: TCP connections until they are WebSockets, few at a time and not for long.

Whoever connects and says nothing, or says it slowly, is cut off in time, and at once where many do
so: the oldest makes room. Before its first byte a connection is nothing but a socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from streamer.metrics import Metrics
from streamer.protocol import Limits

BACKLOG = 1024
"""Connections that the system holds until they are accepted."""
ACCEPTED_AT_ONCE = 16
"""Before those who are here already have their turn."""
MAX_HEADER_BYTES = 8190
"""Of a request's first line, and of each of its headers."""
NO_FILES_SECONDS = 0.1
"""Pause where the system has no file descriptor left."""
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address that this machine lacks, as localhost's of IPv6 may be."""
TLS_HELLO = b"\x16"
_BAD_REQUEST = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
SPEAK_HTTP = f"{_BAD_REQUEST}this port speaks HTTP, and no TLS\n".encode()
SPEAK_TLS = f"{_BAD_REQUEST}this port speaks TLS: https:// and wss://\n".encode()
CHEAP, DEAR = 0.5, 5.0
"""What failures cost us, compared with one HTTP request: nonsense, a WebSocket's errors."""
MAX_DEBTORS = 4096
"""Addresses with failures that are remembered."""


class ListenError(Exception):
    """An address that cannot be listened on; the message says what to do about it."""


class Handler(web.RequestHandler):
    """A connection's HTTP, which tells when it is over and is brief with nonsense."""

    __slots__ = ("_lingering", "address", "gate", "settled", "upgraded")

    def __init__(self, gate: Gate, server: web.Server, address: str) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as AppRunner does it
            keepalive_timeout=0.0,
            lingering_time=0.0,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        self.gate = gate
        self.address = address
        self.settled = asyncio.Event()
        self.upgraded = False
        self._lingering: asyncio.TimerHandle | None = None

    def upgrade(self) -> None:
        """Ends the time that a newcomer has: this is a WebSocket now."""
        self.upgraded = True
        self.settled.set()

    def abort(self) -> None:
        """Cuts the connection off, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()

    def abort_later(self, seconds: float) -> None:
        """Lets what is still to be sent be sent, but does not wait for ever."""
        if self.transport is not None:  # else it is over, and a timer would only keep it alive
            self._lingering = asyncio.get_running_loop().call_later(seconds, self.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells the gate."""
        self.settled.set()
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is no HTTP without a traceback; a bug of ours gets one."""
        if status < 500:
            self.gate.refuse(self.address, "bad_http")
        elif not isinstance(exc, ConnectionError):  # who is gone gets no answer
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=status, text="this is no HTTP request of ours\n")
        response.force_close()
        return response


@dataclass(eq=False)
class Newcomer:
    """A TCP connection that is neither a WebSocket nor over."""

    connection: socket.socket
    """Handed over to aiohttp with its first byte, before which it costs next to nothing."""
    address: str
    """Where it comes from."""
    deadline: float
    """When it is cut off, on the event loop's clock."""
    waiting: asyncio.TimerHandle | None = None
    """Its turn, where the address has failed too often."""
    task: asyncio.Task[None] | None = None
    """Its HTTP."""


class Gate:
    """Accepts connections for an aiohttp server."""

    def __init__(
        self,
        server: web.Server,
        limits: Limits,
        metrics: Metrics,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._limits = limits
        self._metrics = metrics
        self._tls = tls
        self._listeners: list[socket.socket] = []
        self._newcomers: dict[Newcomer, None] = {}
        self._failures: dict[str, tuple[float, float]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Begins to accept; returns the port. Raises ListenError."""
        absent: OSError | None = None
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for family, (address, *_) in dict.fromkeys((info[0], info[4]) for info in found):
                try:
                    listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
                except OSError as error:
                    if error.errno not in ABSENT:
                        raise
                    absent = error
                    continue
                self._listeners.append(listener)
                listener.setblocking(False)
                port = listener.getsockname()[1]
            if not self._listeners:
                raise absent or OSError("the name has no address")
        except OSError as error:
            await self.close()
            number = error.errno or 0  # negative where a name is to blame
            reason = os.strerror(number) if number > 0 else error.strerror or error
            option = "--port" if number in (errno.EADDRINUSE, errno.EACCES) else "--host"
            message = f"cannot listen on {host}:{port}: {reason}; choose another {option}"
            raise ListenError(message) from error
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)
        self._sweeping = self._loop.create_task(self._sweep())
        return port

    async def close(self) -> None:
        """Stops to accept, and cuts off whoever has not got anywhere yet."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners = []
        tasks = [newcomer.task for newcomer in self._newcomers if newcomer.task is not None]
        for newcomer in list(self._newcomers):
            self._drop(newcomer)
        if self._sweeping is not None:
            self._sweeping.cancel()
            tasks.append(self._sweeping)
        await asyncio.gather(*tasks, return_exceptions=True)

    def refuse(self, address: str, reason: str, cost: float = 1.0) -> None:
        """Notes that a connection came to nothing; `cost` is 1 for one HTTP request."""
        self._metrics.refused[reason] += 1
        self._failures[address] = (self._failure_level(address) + cost, self._loop.time())
        if len(self._failures) > MAX_DEBTORS:
            del self._failures[next(iter(self._failures))]

    def _failure_level(self, address: str) -> float:
        level, since = self._failures.get(address, (0.0, 0.0))
        return max(0.0, level - (self._loop.time() - since) * self._limits.failures_per_second)

    def _waiting_seconds(self, address: str) -> float:
        excess = self._failure_level(address) - self._limits.failures_at_once
        longest = self._limits.handshake_seconds / 2
        return min(max(0.0, excess / self._limits.failures_per_second), longest)

    def _accept(self, listener: socket.socket) -> None:
        """Takes some of those who wait; the event loop calls again while there are more."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, (address, *_) = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor is left
                self._drop_oldest("unfinished")
                self._loop.remove_reader(listener)
                self._loop.call_later(NO_FILES_SECONDS, self._accept_again, listener)
                return
            connection.setblocking(False)
            deadline = self._loop.time() + self._limits.handshake_seconds
            newcomer = Newcomer(connection, address, deadline)
            self._newcomers[newcomer] = None
            if seconds := self._waiting_seconds(address):
                newcomer.waiting = self._loop.call_later(seconds, self._hear, newcomer)
            else:
                self._hear(newcomer)
            if len(self._newcomers) > self._limits.unfinished:
                self._drop_oldest("unfinished")

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _hear(self, newcomer: Newcomer) -> None:
        newcomer.waiting = None
        self._loop.add_reader(newcomer.connection, self._begin, newcomer)

    def _begin(self, newcomer: Newcomer) -> None:
        """Has a first look at what a newcomer says, which is cheaper than aiohttp's."""
        try:
            said = newcomer.connection.recv(4, socket.MSG_PEEK)
            is_ours = said[:1] == TLS_HELLO if self._tls else said.isupper()
            if said and not is_ours:
                newcomer.connection.recv(1 << 16)  # or the answer would be lost by a reset
                newcomer.connection.send(SPEAK_TLS if self._tls else SPEAK_HTTP)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            said, is_ours = b"", False
        if is_ours:
            self._loop.remove_reader(newcomer.connection)
            newcomer.task = self._loop.create_task(self._receive(newcomer))
            return
        self._drop(newcomer)
        if said:
            self.refuse(newcomer.address, "tls" if self._tls else "bad_http", CHEAP)

    async def _sweep(self) -> None:
        """Cuts off those whose time is over: the oldest, as all have the same."""
        while True:
            await asyncio.sleep(self._limits.handshake_seconds / 20)
            while self._newcomers and next(iter(self._newcomers)).deadline < self._loop.time():
                self._drop_oldest("handshake_timeout")

    def _drop_oldest(self, reason: str) -> None:
        if self._newcomers:
            self._drop(next(iter(self._newcomers)))
            self._metrics.refused[reason] += 1

    def _drop(self, newcomer: Newcomer) -> None:
        del self._newcomers[newcomer]
        if newcomer.task is not None:
            newcomer.task.cancel()
            return
        if newcomer.waiting is not None:
            newcomer.waiting.cancel()
        else:
            self._loop.remove_reader(newcomer.connection)
        newcomer.connection.close()

    async def _receive(self, newcomer: Newcomer) -> None:
        """Leads a newcomer to its WebSocket or its page."""
        handler = Handler(self, self._server, newcomer.address)
        options: dict[str, Any] = {}
        if self._tls is not None:
            seconds = self._limits.handshake_seconds
            options = {"ssl": self._tls, "ssl_handshake_timeout": seconds}
        transport: asyncio.BaseTransport | None = None
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: handler, newcomer.connection, **options
            )
            await handler.settled.wait()
        except OSError:  # TLS that fails is one too
            self.refuse(newcomer.address, "tls")
        finally:
            self._newcomers.pop(newcomer, None)
            if transport is None:
                newcomer.connection.close()
            elif not handler.upgraded and isinstance(transport, asyncio.Transport):
                transport.abort()
