"""What all remote stores share: files that are read by range, and patience with their faults."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from streamer.errors import SourceError, one_line
from streamer.sources.address import shown
from streamer.sources.files import SourceFile
from streamer.sources.ranges import Sink

T = TypeVar("T")

NUM_REQUESTS = 32
"""Made to a store at once while it is listed: nearly all of that is waiting for answers."""
SIGN_SECONDS = 1.0
"""How often a wait for a store is counted, as a sign of life."""
PROGRESS_BYTES = 64 << 10
"""An attempt that gains as much is no failure, however it ends: patience begins anew."""


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for."""

    deadline_seconds: float = 120.0
    """After which a request that gets nowhere is given up, over all its attempts."""
    stall_seconds: float = 30.0
    """Without an answer, or with less than PROGRESS_BYTES of one, an attempt has failed."""
    first_pause_seconds: float = 0.2
    """Most that is waited after the first failure; doubled with each one."""
    longest_pause_seconds: float = 10.0
    """Most that is waited between attempts, unless the store asks for more."""


class TroubleError(Exception):
    """A fault that may pass: of the network, or of a store that is busy."""

    def __init__(self, reason: str, pause_seconds: float | None = None) -> None:
        super().__init__(one_line(shown(reason)))
        self.pause_seconds = pause_seconds


class Counters:
    """What was done for all sources, for whoever watches the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Counts requests, retries and waits, files, bytes and documents by what befell them."""
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


class RemoteStore(ABC):
    """A place where files lie that are found and read over a network."""

    def __init__(self, patience: Patience, counters: Counters, stopped: Future[None]) -> None:
        self.patience = patience
        self.counters = counters
        self._stopped = stopped

    @abstractmethod
    def find(self, address: str) -> list[SourceFile]:
        """The files of an address, from what the store says of them.

        Raises TroubleError, and SourceError for what will not pass.
        """

    @abstractmethod
    def fetch(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """Adds bytes [start, stop) of a file to `into`, also some of them before it fails.

        Raises TroubleError, and SourceError for what will not pass, as where the file changed.
        """

    def check(self, file: SourceFile) -> None:  # noqa: B027 (most need no such check)
        """Raises SourceError when a file changed that cannot be read under its version alone."""

    def close(self) -> None:  # noqa: B027 (most keep none)
        """Ends connections that are kept for the next request."""

    def read(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """Adds bytes [start, stop) of a file, tried again until the deadline; raises SourceError.

        What an attempt has got is kept: the next one asks for the rest.
        """

        def attempt() -> None:
            before = len(into)
            try:
                self.fetch(file, start + before, stop, into)
            finally:
                self.counters.add("fetched_bytes", len(into) - before)
            if len(into) != stop - start:
                raise TroubleError(f"the answer was cut off after {len(into)} bytes")

        self.insist(file.name, attempt, progress=lambda: len(into))

    def insist(
        self,
        name: str,
        attempt: Callable[[], T],
        deadline_seconds: float | None = None,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """The result of `attempt`, made again after trouble; raises SourceError at the end."""
        began, num_attempts, num_failures, gained = time.monotonic(), 0, 0, 0
        limit = self.patience.deadline_seconds if deadline_seconds is None else deadline_seconds
        while True:
            num_attempts += 1
            self.counters.add("requests")
            try:
                return attempt()
            except TroubleError as trouble:
                error = trouble
            if progress() - gained >= PROGRESS_BYTES:
                began, num_failures, gained = time.monotonic(), 0, progress()
            pause = self._pause(num_failures, error.pause_seconds)
            num_failures += 1
            seconds = time.monotonic() - began
            if seconds + pause > limit:
                raise SourceError(
                    f"cannot read {name}: {error} ({num_attempts} attempts in {seconds:.0f} s)",
                    retry=True,
                ) from error
            self.counters.add("retries")
            self._wait(pause)

    def _pause(self, num_failures: int, asked_seconds: float | None) -> float:
        """Full jitter, so that many readers do not come back at once."""
        most = self.patience.first_pause_seconds * 2.0 ** min(num_failures, 20)
        pause = random.uniform(0.0, min(most, self.patience.longest_pause_seconds))
        return pause if asked_seconds is None else asked_seconds + pause

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine in fsspec's event loop, unless the server stops."""
        from fsspec.asyn import get_loop

        future = asyncio.run_coroutine_threadsafe(coroutine, get_loop())
        try:
            self._wait(math.inf, future)
        except SourceError:
            future.cancel()
            raise
        return future.result()

    def in_time(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """The result of `work` that has no deadline of its own; raises TroubleError beyond ours.

        It is left to itself then, in a thread that does not keep the process from ending.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="store", daemon=True).start()
        self._wait(seconds or self.patience.deadline_seconds, future)
        if not future.done():
            raise TroubleError("it does not answer in time")
        return future.result()

    def _wait(self, seconds: float, *futures: Future[Any]) -> None:
        """Waits for one of `futures`, at most so long; raises SourceError when the server stops.

        It is a sign of life of the server, whose patience has its own end.
        """
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            timeout = min(max(left, 0.0), SIGN_SECONDS)
            done = wait((*futures, self._stopped), timeout, FIRST_COMPLETED).done
            if done == {self._stopped}:
                raise SourceError("the server is stopping", retry=True)
            if done or left <= SIGN_SECONDS:
                return
            self.counters.add("waits")

    async def collect(
        self, chunks: AsyncIterator[bytes], num_skipped: int, num_wanted: int, into: Sink
    ) -> None:
        """Adds the wanted bytes of an answer; raises TroubleError where they only trickle in."""
        end, mark, seen, seen_at_mark = len(into) + num_wanted, time.monotonic(), 0, 0
        async for chunk in chunks:
            seen += len(chunk)
            into.extend(chunk[num_skipped : num_skipped + end - len(into)])
            num_skipped = max(0, num_skipped - len(chunk))
            if len(into) >= end:
                return
            if time.monotonic() - mark > self.patience.stall_seconds:
                if seen - seen_at_mark < PROGRESS_BYTES:
                    raise TroubleError("it sends next to nothing")
                mark, seen_at_mark = time.monotonic(), seen


def raise_for_status(name: str, status: int, reason: str, retry_after: str | None) -> None:
    """Raises TroubleError for an HTTP status that may pass, SourceError for another error."""
    if status < 400:
        return
    if status in (408, 425, 429) or status >= 500:
        raise TroubleError(f"it answers {status} {reason}", retry_after_seconds(retry_after))
    if status in (404, 410):
        raise SourceError(f"source not found: {name} (it answers {status}); check the address")
    if status in (401, 403):
        raise SourceError(f"no access to {name} (it answers {status}); check the credentials")
    raise SourceError(f"cannot read {name}: it answers {status} {reason}")


def retry_after_seconds(value: str | None) -> float | None:
    """The header Retry-After, seconds or a date, as seconds from now; None where it is neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def missing_package(address: str, package: str, extra: str | None = None) -> SourceError:
    """The error where what an address needs is not installed."""
    install = f"babygpt-exp[{extra}]" if extra else package
    return SourceError(f"{shown(address)} needs {package}: pip install '{install}'")
