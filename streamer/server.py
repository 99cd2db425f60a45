"""The server: from its options to its end, within seconds of being told."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from streamer.access import (
    SERVER_TOKEN_VARIABLE,
    AccessError,
    Tokens,
    is_loopback,
    load_certificate,
    server_context,
)
from streamer.application import Application
from streamer.cache import TokenCache
from streamer.gate import Gate
from streamer.library import Library
from streamer.lifetime import allow_many_files, stop_on_signals, stop_with_parent
from streamer.logs import event
from streamer.metrics import Metrics
from streamer.protocol import PATH, Limits
from streamer.signs import while_waiting
from streamer.sources.listing import Listing
from streamer.sources.spec import SourceSpec

log = logging.getLogger(__name__)

LISTING_SECONDS = 10.0
"""How often the log says how far it is while sources are listed, which may take minutes."""


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
    """Folder of the cache."""
    cache_bytes: int
    """Size up to which it grows."""
    stop_with_parent: bool
    """Whether to end when standard input closes or the parent process is gone."""
    token_file: Path | None = None
    """Tokens that are let in; None lets everybody in."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key; None serves without TLS."""
    limits: Limits = field(default_factory=Limits)
    """What is too much."""


async def serve(options: ServerOptions) -> None:
    """Lists the sources, says where it listens, and serves until told to stop.

    Raises SourceError for a source that cannot be served, AccessError and ListenError.
    """
    allow_many_files()
    tokens = Tokens(options.token_file, os.environ.pop(SERVER_TOKEN_VARIABLE, None))
    tls = server_context(*options.tls) if options.tls is not None else None
    stop = asyncio.Event()
    stop_on_signals(stop, options.stop_with_parent)
    if options.stop_with_parent:
        stop_with_parent(stop)
    _reload_on_signal(tokens, tls, options)
    library = Library(options.sources, TokenCache(options.cache_dir, options.cache_bytes))
    listing_task = asyncio.create_task(list_sources(library))
    stop_task = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({listing_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        for listing in await listing_task:
            event(
                log,
                logging.INFO,
                "source",
                source=listing.name,
                weight=listing.spec.weight,
                files=len(listing.snapshot),
                shards=len(listing.shards),
                megabytes=listing.num_bytes / 1e6,
            )
        await _serve_library(library, tokens, tls, options, stop)
    finally:
        listing_task.cancel()
        stop_task.cancel()
        library.close()


async def list_sources(library: Library) -> tuple[Listing, ...]:
    """What is served; the log says now and then how many files that were, if there were more."""
    done = library.progress

    async def tell() -> None:
        nonlocal done
        if library.progress != done:
            done, counters = library.progress, library.shelf.counters
            counts = {name: counters[name] for name in ("hashed_files", "listed_files")}
            event(log, logging.INFO, "listing", **counts)

    return await while_waiting(library.listings(), tell, LISTING_SECONDS)


async def _serve_library(
    library: Library,
    tokens: Tokens,
    tls: ssl.SSLContext | None,
    options: ServerOptions,
    stop: asyncio.Event,
) -> None:
    metrics = library.metrics
    is_local = is_loopback(options.host)
    application = Application(library, tokens, options.limits, is_local=is_local)
    runner = web.AppRunner(application.web, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None
    gate = Gate(runner.server, options.limits, metrics, tls)
    sampling = asyncio.create_task(_sample(metrics))
    try:
        port = await gate.listen(options.host, options.port)
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"{'wss' if tls else 'ws'}://{host}:{port}{PATH}"
        access = f"{len(tokens)} tokens" if len(tokens) else "open"
        event(log, logging.INFO, "listening", url=url, access=access)
        print(f"listening on {url}", flush=True)
        await stop.wait()
        event(log, logging.INFO, "stopping", streams=len(list(metrics.streams())))
    finally:
        sampling.cancel()
        await gate.close()
        await runner.cleanup()
    event(log, logging.INFO, "stopped", tokens=metrics.num_tokens)


async def _sample(metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(1)
        metrics.sample()


def _reload_on_signal(tokens: Tokens, tls: ssl.SSLContext | None, options: ServerOptions) -> None:
    """Reads tokens and certificate anew on SIGHUP; what is broken leaves what was known.

    Without either, SIGHUP ends the server, as it ends all that runs in a terminal that closes.
    """
    if options.token_file is None and tls is None:
        return

    def reload() -> None:
        try:
            tokens.reload()
            if tls is not None and options.tls is not None:
                load_certificate(tls, *options.tls)
        except AccessError as error:
            event(log, logging.ERROR, "reload_failed", reason=str(error))
        else:
            event(log, logging.INFO, "reloaded", tokens=len(tokens), tls=tls is not None)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
