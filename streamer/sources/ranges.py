"""Ranges of remote files: where their bytes go to, and a file made of them."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Protocol

from streamer.sources.files import SourceFile


class Sink(Protocol):
    """Where bytes are added to: a bytearray, or a file."""

    def __len__(self) -> int: ...

    def extend(self, data: bytes, /) -> None:
        """Adds bytes at the end."""


class FileSink:
    """A file that bytes are added to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.tell()

    def extend(self, data: bytes, /) -> None:
        """Adds bytes at the end."""
        self._file.write(data)


class RangeReader(Protocol):
    """What reads a range of a file; raises SourceError."""

    def read(self, file: SourceFile, start: int, stop: int, into: Sink) -> None:
        """Adds bytes [start, stop) of a file."""


class RangeFile(io.RawIOBase):
    """A remote file as a stream that can be sought; each read is one range."""

    def __init__(self, store: RangeReader, file: SourceFile) -> None:
        self._store, self._file, self._position = store, file, 0

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves without a request."""
        size = self._file.identity.num_bytes
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills as much of `buffer` as the file has from here; raises SourceError."""
        stop = min(self._position + len(buffer), self._file.identity.num_bytes)
        if stop <= self._position:
            return 0
        data = bytearray()
        self._store.read(self._file, self._position, stop, data)
        buffer[: len(data)] = data
        self._position = stop
        return len(data)
