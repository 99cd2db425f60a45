"""An event loop in a thread of its own, on which a client's connections live."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from streamer.transport import StreamError

T = TypeVar("T")

CLOSE_SECONDS = 5.0


class Background:
    """Runs from the first to `close`; it may be called from any other thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises StreamError once this is closed."""
        if self.is_closed:
            work.close()
            raise StreamError("closed", "", "this client is closed")
        return wait_for(work, self.loop)

    def close(self) -> None:
        """Ends the loop and the thread."""
        self.is_closed = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def wait_for(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """The result of `work` in an event loop of another thread."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        raise StreamError("closed", "", "this stream is closed") from error
    finally:
        future.cancel()
