"""The server: from a model that is ready to its end, within seconds of being told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import dataclass

from aiohttp import web

from babygpt_exp.generation.engine import Engine
from babygpt_exp.serving.application import Application
from babygpt_exp.serving.completions import Served
from babygpt_exp.serving.metrics import Metrics
from babygpt_exp.serving.worker import Worker
from streamer.access import AccessError, Tokens, is_loopback
from streamer.gate import Gate
from streamer.lifetime import allow_many_files, stop_on_signals
from streamer.logs import event
from streamer.metrics import Metrics as GateMetrics
from streamer.protocol import Limits as GateLimits

log = logging.getLogger(__name__)

ARRIVAL_SECONDS = 20.0
"""Time from a connection to the end of its request's body; or of its answer, if that is at once."""

FINISH_SECONDS = 2.0
"""Time that texts have to come to their end when the server is told to stop."""

GOODBYE_SECONDS = 0.5
"""Time to tell the others."""


@dataclass(frozen=True)
class Place:
    """Where a server listens."""

    host: str
    """Address to listen on."""
    port: int
    """Port to listen on; 0 lets the system choose."""


async def serve(engine: Engine, served: Served, tokens: Tokens, place: Place) -> None:
    """Says where it listens, and serves until told to stop.

    Raises ListenError for a place that can not be had.
    """
    allow_many_files()
    stop = asyncio.Event()
    stop_on_signals(stop, embedded=False)
    if len(tokens):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, tokens)
    metrics = Metrics(engine.num_slots)
    worker = Worker(engine, metrics, asyncio.get_running_loop())
    is_local = is_loopback(place.host)
    application = Application(served, worker, metrics, tokens, is_local=is_local)
    worker.start()
    try:
        await _listen(application, metrics, served, place, stop)
    finally:
        if not worker.stop():
            sys.stdout.flush()
            os._exit(0)  # a step is under way that nothing can interrupt
    event(log, logging.INFO, "stopped", tokens=metrics.num_completion_tokens)


async def _listen(
    application: Application, metrics: Metrics, served: Served, place: Place, stop: asyncio.Event
) -> None:
    """Serves until told to stop, and lets those finish who are being served."""
    runner = web.AppRunner(
        application.web,
        access_log=None,
        shutdown_timeout=GOODBYE_SECONDS,
        handler_cancellation=True,
    )
    await runner.setup()
    assert runner.server is not None
    counted = GateMetrics()
    metrics.refused = counted.refused
    gate = Gate(runner.server, GateLimits(handshake_seconds=ARRIVAL_SECONDS), counted, None)
    try:
        port = await gate.listen(place.host, place.port)
        host = f"[{place.host}]" if ":" in place.host else place.host
        print(f"serving {served.name} on http://{host}:{port}/", flush=True)
        await stop.wait()
        event(log, logging.INFO, "stopping")
        await _finish(application)
    finally:
        await gate.close()
        await runner.cleanup()


async def _finish(application: Application) -> None:
    """No new requests; those that are being answered have a little time to come to their end."""
    application.stopping = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FINISH_SECONDS):
            await application.idle.wait()
    application.end()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await application.idle.wait()


def _reload(tokens: Tokens) -> None:
    """Reads the tokens anew; what is broken leaves what was known."""
    try:
        tokens.reload()
    except AccessError as error:
        event(log, logging.ERROR, "reload_failed", reason=str(error))
    else:
        event(log, logging.INFO, "reloaded", tokens=len(tokens))
