"""Footers of parquet files, kept: that of a large file takes seconds to get."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from streamer.sources import parquet
from streamer.sources.address import protocol_of
from streamer.sources.document_cache import DocumentCache
from streamer.sources.files import Identity, SourceFile

KEPT_BYTES = 64 << 20
"""Kept at hand, as they are stored; some times as much in memory."""


class Footers:
    """Those used last at hand, and those of remote files on disk as well."""

    def __init__(self, cache: DocumentCache, read_tail: Callable[[SourceFile], bytes]) -> None:
        self._cache = cache
        self._read_tail = read_tail
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Identity], tuple[parquet.Footer, int]] = OrderedDict()

    def get(self, file: SourceFile) -> parquet.Footer:
        """The footer of a file; raises SourceError."""
        key = (file.address, file.identity)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        tail = self._tail(file)
        footer = parquet.parse_footer(file.name, tail)
        with self._lock:
            self._kept[key] = footer, len(tail)
            while len(self._kept) > 1 and self._num_bytes() > KEPT_BYTES:
                self._kept.popitem(last=False)
        return footer

    def _num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in self._kept.values())

    def _tail(self, file: SourceFile) -> bytes:
        if protocol_of(file.address) is None:
            return self._read_tail(file)
        parts = f"{file.address}\n{file.identity.version}\n{file.identity.num_bytes}"
        key = blake2b(parts.encode(), digest_size=20).hexdigest()
        tail = self._cache.load_tail(key)
        if tail is None:
            tail = self._read_tail(file)
            self._cache.store_tail(key, tail)
        return tail
