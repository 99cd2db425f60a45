"""How the server's process begins and ends: signals, its parent, and what the system allows it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""A tokenizer in the midst of a batch cannot be interrupted; by then the process ends anyway."""
PARENT_SECONDS = 0.5
"""Time between looks at whether the parent is still there."""


def stop_on_signals(stop: asyncio.Event, embedded: bool) -> None:
    """Sets `stop` on SIGTERM, and on SIGINT unless that is for the parent to act upon."""

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


def stop_with_parent(stop: asyncio.Event) -> None:
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


def allow_many_files() -> None:
    """Raises the number of files and sockets that may be open to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS has a lower limit of its own
        log.info("at most %d files and connections at once: %s", soft, error)
