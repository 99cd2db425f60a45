"""The server: one aiohttp application, its sockets, and an end within seconds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import WSCloseCode, web

from streamer.cache import TokenCache
from streamer.connection import Connection
from streamer.errors import RequestError
from streamer.library import Library
from streamer.protocol import (
    HANDSHAKE_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_CONNECTIONS,
    MAX_TOKENIZER_BYTES,
    PATH,
    SUBPROTOCOL,
)
from streamer.sources.spec import SourceSpec

log = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""A tokenizer in the midst of a batch cannot be interrupted; by then the process ends anyway."""
PARENT_SECONDS = 0.5
"""Time between looks at whether the parent is still there."""


class ListenError(Exception):
    """An address that cannot be listened on; the message says what to do about it."""


@dataclass(frozen=True)
class ServerOptions:
    """What the command line decides."""

    sources: tuple[SourceSpec, ...]
    """What is served, mixed by weight."""
    host: str
    """Address to listen on."""
    port: int
    """Port to listen on; 0 lets the system choose."""
    cache_dir: Path
    """Folder of the token cache."""
    stop_with_parent: bool
    """Whether to end when standard input closes or the parent process is gone."""


class Server:
    """The application over one library."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._connections: set[Connection] = set()
        self.application = web.Application()
        self.application.router.add_get(PATH, self._websocket)
        self.application.router.add_get("/healthz", self._healthz)
        self.application.on_shutdown.append(self._shut_down)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if len(self._connections) >= MAX_CONNECTIONS:
            return web.Response(status=503, text="too many connections\n")
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=2 * MAX_TOKENIZER_BYTES,
            compress=False,
            timeout=2.0,
        )
        await socket.prepare(request)
        if socket.ws_protocol != SUBPROTOCOL:
            error = RequestError("bad_request", "", f"offer the subprotocol {SUBPROTOCOL}")
            await socket.send_str(json.dumps(error.payload()))
            await socket.close(code=WSCloseCode.PROTOCOL_ERROR)
            return socket

        def abort() -> None:
            if request.transport is not None:
                request.transport.abort()

        connection = Connection(socket, abort, self.library)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
        return socket

    async def _shut_down(self, application: web.Application) -> None:
        self.library.close()
        await asyncio.gather(*(found.say_goodbye() for found in self._connections))


async def serve(options: ServerOptions) -> None:
    """Lists the source, says where it listens, and serves until told to stop.

    Raises SourceError for a source that cannot be served, and ListenError.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop, options.stop_with_parent)
    if options.stop_with_parent:
        _stop_with_parent(stop)
    library = Library(options.sources, TokenCache(options.cache_dir))
    listing_task = asyncio.create_task(library.listings())
    stop_task = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({listing_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        for listing in await listing_task:
            log.info(
                "serving %s: %d files, %d shards, %.1f MB",
                listing.name,
                len(listing.snapshot),
                len(listing.shards),
                listing.num_bytes / 1e6,
            )
        runner = web.AppRunner(
            Server(library).application,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=HANDSHAKE_SECONDS,  # also ends a connection that asks for nothing
        )
        await runner.setup()
        try:
            await _listen(runner, options)
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(f"listening on ws://{host}:{runner.addresses[0][1]}{PATH}", flush=True)
            await stop.wait()
        finally:
            await runner.cleanup()
    finally:
        listing_task.cancel()
        stop_task.cancel()
        library.close()


async def _listen(runner: web.AppRunner, options: ServerOptions) -> None:
    try:
        await web.TCPSite(runner, options.host, options.port).start()
    except OSError as error:
        address, reason = f"{options.host}:{options.port}", error.strerror or error
        raise ListenError(f"cannot listen on {address}: {reason}; choose another --port") from error


def _stop_on_signals(stop: asyncio.Event, embedded: bool) -> None:
    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
            _end_in_time()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_signal)
    if embedded:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGINT, on_signal)


def _end_in_time() -> None:
    timer = threading.Timer(STOP_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _stop_with_parent(stop: asyncio.Event) -> None:
    """Ends when standard input closes, or when the parent is gone and a child of it keeps it."""
    loop = asyncio.get_running_loop()
    parent = os.getppid()

    def on_end() -> None:
        stop.set()
        _end_in_time()

    def tell(function: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(function)

    def read_to_end() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        tell(on_end)

    def poll() -> None:
        if os.getppid() != parent:
            on_end()
        elif not stop.is_set():
            loop.call_later(PARENT_SECONDS, poll)

    threading.Thread(target=read_to_end, name="parent", daemon=True).start()
    poll()
