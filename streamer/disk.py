"""The cache folder: whole files or none, and no more bytes than allowed.

A file is written under another name and renamed, so that a reader sees all of it or nothing, and
two writers do no harm. Several processes may share a folder: whoever finds it too large removes
what was used least recently, and a file that is still mapped elsewhere lives on until it is let
go.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 50_000_000_000
"""Enough for the tokens and documents of about 10 billion tokens, and for a laptop's disk."""
KEPT_SHARE = 0.9
"""How far the folder is emptied once it is full, so that this is not done for each file."""
SCAN_SHARE = 0.02
"""After writing this share of the limit a process looks what others have written meanwhile."""
TOUCH_SECONDS = 60.0
"""A file used again within this time keeps its time stamp."""
ABANDONED_SECONDS = 3600.0
"""An unfinished file older than this was left behind by a process that is gone."""
FOLDERS = ("shards", "documents", "footers")
"""The folders that files are removed from; whatever else lies beside them is not ours."""


class CacheDisk:
    """One folder of files that can be made again.

    Where it cannot be written, everything goes on without it and a warning says so once.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._bypassed = False
        self._lock = threading.Lock()
        self._num_bytes: int | None = None
        self._num_unscanned_bytes = 0

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> bool:
        """Writes a file of the folder and makes room for it; False if that cannot be done."""
        views = [memoryview(part).cast("B") for part in parts]
        num_bytes = sum(view.nbytes for view in views)
        if num_bytes > self.max_bytes:
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    for view in views:
                        file.write(view)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self.bypass(error)
            return False
        self._make_room(num_bytes)
        return True

    def touch(self, path: Path) -> None:
        """Marks a file as used now; one that is gone meanwhile needs no mark."""
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > TOUCH_SECONDS:
                os.utime(path)

    def remove(self, path: Path, reason: object) -> None:
        """Removes a damaged file, so that it is made again."""
        log.warning("removed a damaged cache entry, making it again: %s: %s", path, reason)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.bypass(error)

    def bypass(self, error: OSError) -> None:
        """Says, once, that the folder is of no use at present."""
        if not self._bypassed:
            self._bypassed = True
            log.warning("cache bypassed: %s: %s", self.folder, error.strerror or error)

    def _make_room(self, num_bytes: int) -> None:
        with self._lock:
            self._num_unscanned_bytes += num_bytes
            if self._num_bytes is not None:
                self._num_bytes += num_bytes
                is_due = self._num_unscanned_bytes > SCAN_SHARE * self.max_bytes
                if self._num_bytes <= self.max_bytes and not is_due:
                    return
            self._num_bytes = self._evict()
            self._num_unscanned_bytes = 0

    def _evict(self) -> int:
        """Removes the oldest files where there are too many bytes; returns how many are left."""
        found: list[tuple[float, int, str]] = []
        for name in FOLDERS:
            for folder, _, files in os.walk(self.folder / name):
                for file in files:
                    with contextlib.suppress(OSError):
                        path = os.path.join(folder, file)
                        status = os.stat(path)
                        found.append((status.st_mtime, status.st_size, path))
        oldest_unfinished = time.time() - ABANDONED_SECONDS
        num_bytes = sum(size for _, size, _ in found)
        wanted = self.max_bytes * KEPT_SHARE if num_bytes > self.max_bytes else self.max_bytes
        for used, size, path in sorted(found):
            is_unfinished = os.path.basename(path).startswith(".")
            if used < oldest_unfinished if is_unfinished else num_bytes > wanted:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    num_bytes -= size
        return num_bytes
