"""The application: what is answered at which path, and every WebSocket from its first to its last.

One path, two protocols: who offers no subprotocol speaks EIR's 1.0.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from aiohttp import WSCloseCode, hdrs, web

from streamer.access import CHALLENGE, Tokens, host_name, is_loopback
from streamer.connection import Connection
from streamer.eir.connection import EirConnection
from streamer.eir.messages import MAX_MESSAGE_BYTES
from streamer.eir.session import Sessions
from streamer.errors import RequestError
from streamer.gate import DEAR, Handler
from streamer.library import Library
from streamer.logs import event
from streamer.metrics import ConnectionRecord, Metrics
from streamer.prometheus import prometheus
from streamer.protocol import PATH, SUBPROTOCOL, Limits
from streamer.status import page, status

log = logging.getLogger(__name__)

NO_WEBSOCKET = "this address is for WebSockets, the status page is beside it at ./\n"
FOREIGN = "pages of other sites may not ask here; the status page is at http://localhost\n"
RETRY_SECONDS = 5
"""What a client is told that comes to a full server."""
CLOSE_SECONDS = 2.0
"""Time that a client has to answer the end of a connection."""
PUBLIC_PATHS = ("/healthz",)
"""What may be asked without a token."""
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Speaker(Protocol):
    """A connection of either protocol."""

    async def serve(self) -> None:
        """Answers until the client goes."""

    async def say_goodbye(self) -> None:
        """Tells the client that the server stops, and closes."""


class Application:
    """The application over one library."""

    def __init__(self, library: Library, tokens: Tokens, limits: Limits, *, is_local: bool) -> None:
        """`is_local` says that only this machine can reach the server."""
        self._is_local = is_local
        self._library = library
        self._tokens = tokens
        self._limits = limits
        self._metrics = library.metrics
        self._speakers: set[Speaker] = set()
        self._addresses: Counter[str] = Counter()
        self._eir_sessions = Sessions()
        self.web = web.Application(middlewares=[self._guard])
        self.web.router.add_get(PATH, self._websocket)
        self.web.router.add_get("/healthz", self._healthz)
        self.web.router.add_get("/metrics", self._prometheus)
        self.web.router.add_get("/", self._page)
        self.web.router.add_get("/status.json", self._status)
        self.web.on_shutdown.append(self._shut_down)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Lets in whoever may ask; every answer but a WebSocket is the last on its connection."""
        gate, address = _handler(request).gate, _handler(request).address
        if request.path not in PUBLIC_PATHS and not self._tokens.admit(request):
            gate.refuse(address, "unauthorized")
            text = "a token is needed: Authorization: Bearer TOKEN\n"
            response: web.StreamResponse = web.Response(status=401, text=text, headers=CHALLENGE)
        elif self._is_local and not len(self._tokens) and is_foreign(request):
            gate.refuse(address, "foreign_page")
            response = web.Response(status=403, text=FOREIGN)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                gate.refuse(address, f"http_{error.status}")
                text = NO_WEBSOCKET if request.path == PATH else f"{error.reason}\n"
                response = web.Response(status=error.status, text=text)
        response.force_close()
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _prometheus(self, request: web.Request) -> web.Response:
        headers = {hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=prometheus(self._counted()).encode(), headers=headers)

    async def _page(self, request: web.Request) -> web.Response:
        text, headers = page(self._found())
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._found(), headers={"Cache-Control": "no-store"})

    def _counted(self) -> Metrics:
        """The metrics, with what other threads have counted of the sources."""
        metrics, counters = self._metrics, self._library.shelf.counters
        metrics.num_source_retries = counters["retries"]
        metrics.num_source_requests = counters["requests"]
        metrics.num_source_bytes = counters["fetched_bytes"]
        metrics.num_skipped_documents = counters["bad_documents"]
        metrics.cache_hits["document"] = counters["document_hits"]
        metrics.cache_misses["document"] = counters["document_misses"]
        return metrics

    def _found(self) -> dict[str, Any]:
        library = self._library
        return status(self._counted(), library.known_listings, library.num_tokenizers)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        handler = _handler(request)
        reason = ""
        if len(self._metrics.connections) >= self._limits.connections:
            reason = "connections"
        elif self._addresses[handler.address] >= self._limits.connections_per_address:
            reason = "connections_per_address"
        if reason:
            handler.gate.refuse(handler.address, reason)
            text = f"more {reason} than this server allows; try again later\n"
            headers = {hdrs.RETRY_AFTER: str(RETRY_SECONDS)}
            return web.Response(status=503, text=text, headers=headers)
        is_eir = hdrs.SEC_WEBSOCKET_PROTOCOL not in request.headers
        record = ConnectionRecord(_peer(request), "eir" if is_eir else "v2")
        self._metrics.connections.add(record)
        self._addresses[handler.address] += 1
        try:
            return await self._converse(request, handler, record)
        finally:
            self._metrics.connections.discard(record)
            self._addresses[handler.address] -= 1
            if not self._addresses[handler.address]:
                del self._addresses[handler.address]

    async def _converse(
        self, request: web.Request, handler: Handler, record: ConnectionRecord
    ) -> web.WebSocketResponse:
        """Turns a request into a WebSocket, and serves it."""
        is_eir = record.protocol == "eir"  # whose clients answer no ping while they compute
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            heartbeat=None if is_eir else self._limits.heartbeat_seconds,
            max_msg_size=MAX_MESSAGE_BYTES if is_eir else self._limits.message_bytes,
            autoping=is_eir,
            compress=False,
            timeout=CLOSE_SECONDS,
        )
        await socket.prepare(request)
        handler.upgrade()
        self._metrics.num_connections += 1
        event(log, logging.INFO, "connected", peer=record.peer, protocol=record.protocol)
        try:
            speaker: Speaker
            if is_eir:
                speaker = EirConnection(
                    socket, handler.abort, self._library, self._eir_sessions, request.query, record
                )
            elif socket.ws_protocol == SUBPROTOCOL:
                speaker = Connection(
                    socket, handler.abort, self._library, self._limits, self._metrics, record
                )
            else:
                await self._refuse_subprotocol(socket, record)
                return socket
            self._speakers.add(speaker)
            try:
                await speaker.serve()
            finally:
                self._speakers.discard(speaker)
        finally:
            handler.abort_later(self._limits.send_seconds)
            self._note_end(socket, handler, record)
        return socket

    async def _refuse_subprotocol(
        self, socket: web.WebSocketResponse, record: ConnectionRecord
    ) -> None:
        error = RequestError("bad_request", "", f"offer the subprotocol {SUBPROTOCOL}")
        record.fault = "1002: unknown subprotocol"
        async with asyncio.timeout(self._limits.send_seconds):
            await socket.send_json(error.payload())
            await socket.close(code=WSCloseCode.PROTOCOL_ERROR)

    def _note_end(
        self, socket: web.WebSocketResponse, handler: Handler, record: ConnectionRecord
    ) -> None:
        if record.fault:
            handler.gate.refuse(handler.address, "bad_client", DEAR)
        event(
            log,
            logging.INFO,
            "disconnected",
            peer=record.peer,
            protocol=record.protocol,
            code=socket.close_code,
            fault=record.fault or None,
            seconds=time.monotonic() - record.began,
            tokens=record.tokens,
        )

    async def _shut_down(self, application: web.Application) -> None:
        self._library.close()
        await asyncio.gather(*(found.say_goodbye() for found in self._speakers))


def is_foreign(request: web.BaseRequest) -> bool:
    """Whether a page of another site asks, through the browser of somebody at this machine.

    A WebSocket may be opened from any page, which the browser names. Pages may be read only by
    their own site, but its name can be made to lead here (DNS rebinding): then it is not ours.
    """
    if (origin := request.headers.get(hdrs.ORIGIN)) is not None:
        return not is_loopback(host_name(origin.partition("://")[2]))
    host = request.headers.get(hdrs.HOST, "localhost")
    paths = (PATH, *PUBLIC_PATHS)  # where proxies and probes may use names of theirs
    return request.path not in paths and not is_loopback(host_name(host))


def _handler(request: web.Request) -> Handler:
    return cast(Handler, request.protocol)


def _peer(request: web.Request) -> str:
    host, port = request.transport.get_extra_info("peername")[:2] if request.transport else ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
