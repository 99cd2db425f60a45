"""The stores of all remote sources, and what was found in them a short while ago."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from streamer.errors import SourceError
from streamer.sources.address import protocol_of, shown
from streamer.sources.files import SourceFile
from streamer.sources.listing import no_files
from streamer.sources.remote import Counters, Patience, RemoteStore

log = logging.getLogger(__name__)

RELIST_SECONDS = 60.0
"""A remote source is listed anew after this time at the earliest: clients open streams often. A
file that changed meanwhile is noticed when it is read."""
LIST_DEADLINE_SECONDS = 30.0
"""A source that nobody has seen yet is given up sooner than one that served for days: whoever
starts a server or a run waits for the answer, and most often there is no network."""
RELIST_DEADLINE_SECONDS = 10.0
"""A store that does not answer is waited for no longer where an older list can be used."""


@dataclass(frozen=True)
class _Found:
    """The files of a source."""

    files: list[SourceFile]
    """In order."""
    at_seconds: float
    """When they were listed, by the monotonic clock."""


class Stores:
    """One store a protocol, made when it is first needed."""

    def __init__(self, patience: Patience, counters: Counters) -> None:
        self._patience = patience
        self._counters = counters
        self._stopped: Future[None] = Future()
        self._stores: dict[str, RemoteStore] = {}
        self._found: dict[str, _Found] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Gives up what waits for a store."""
        if not self._stopped.done():
            self._stopped.set_result(None)
        for store in self._stores.values():
            store.close()

    def of(self, address: str) -> RemoteStore:
        """The store of an address; raises SourceError where a package is missing."""
        protocol = protocol_of(address) or ""
        with self._lock:
            if protocol not in self._stores:
                self._stores[protocol] = make_store(
                    address, self._patience, self._counters, self._stopped
                )
            return self._stores[protocol]

    def find(self, address: str) -> list[SourceFile]:
        """The files of a source, as they are or were within the last minute.

        Where the store does not answer, those of an older list will do. Raises SourceError.
        """
        with self._lock:
            known = self._found.get(address)
        if known is not None and time.monotonic() - known.at_seconds < RELIST_SECONDS:
            return known.files
        store = self.of(address)
        limit = None if known is None else RELIST_DEADLINE_SECONDS
        patience = limit or min(LIST_DEADLINE_SECONDS, self._patience.deadline_seconds)
        try:
            files = store.insist(
                shown(address), lambda: store.in_time(lambda: store.find(address), limit), patience
            )
        except SourceError as error:
            if known is None or not error.retry:
                raise
            log.warning("%s; going on with the files as they were listed before", error)
            files = known.files
        if not files:
            raise no_files(shown(address))
        with self._lock:
            self._found[address] = _Found(files, time.monotonic())
        return files

    def forget(self, address: str) -> None:
        """Lists a source anew at the next look."""
        with self._lock:
            self._found.pop(address, None)


def make_store(
    address: str, patience: Patience, counters: Counters, stopped: Future[None]
) -> RemoteStore:
    """The store of a URL; raises SourceError naming the package where one is missing."""
    protocol = protocol_of(address)
    if protocol in ("http", "https"):
        from streamer.sources.http import HttpStore

        return HttpStore(patience, counters, stopped)
    if protocol == "s3":
        from streamer.sources.s3 import S3Store

        return S3Store(patience, counters, stopped)
    if protocol == "hf":
        from streamer.sources.hub import HubStore

        return HubStore(patience, counters, stopped)
    from streamer.sources.filesystem import FileSystemStore

    return FileSystemStore(patience, counters, stopped)
