"""The content of a file that is read as a whole: decompressed into a temporary file, once."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from streamer.disk import CacheDisk
from streamer.errors import SourceError, one_line
from streamer.sources.bad import BadDocuments
from streamer.sources.files import SourceFile

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
SALVAGE_BYTES = 4 << 10
"""A damaged file is decompressed piece by piece of this size up to the piece that fails, so that
what is left of it depends on nothing but its bytes."""


class _Raw(io.RawIOBase):
    """Compressed bytes: what fails here is not their fault, and is said so."""

    def __init__(self, name: str, stream: BinaryIO, piece_bytes: int | None = None) -> None:
        self._name, self._stream, self._piece_bytes = name, stream, piece_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._piece_bytes is not None:
            size = self._piece_bytes if size < 0 else min(size, self._piece_bytes)
        try:
            return self._stream.read(size)
        except OSError as error:
            raise SourceError(f"cannot read {self._name}: {error.strerror or error}") from error


def chunks_of(
    file: SourceFile, open_stored: Callable[[], BinaryIO], bad: BadDocuments
) -> Generator[bytes, None, None]:
    """The decompressed content; where the file is damaged, what comes before that."""
    num_bytes = 0
    with open_stored() as stored:
        stream = _decompressed(file, _Raw(file.name, stored))
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except (pa.ArrowException, OSError) as error:
                problem = f"cannot be decompressed, the rest is lost: {one_line(str(error))}"
                break
            if not chunk:
                return
            num_bytes += len(chunk)
            yield chunk
    bad.add(lambda: f"after byte {num_bytes}", problem)
    yield from _salvaged(file, open_stored, num_bytes)


def _salvaged(
    file: SourceFile, open_stored: Callable[[], BinaryIO], num_skipped: int
) -> Iterator[bytes]:
    with open_stored() as stored:
        stream = _decompressed(file, _Raw(file.name, stored, SALVAGE_BYTES))
        try:
            while num_skipped > 0 and (chunk := stream.read(min(num_skipped, CHUNK_BYTES))):
                num_skipped -= len(chunk)
            while byte := stream.read(1):  # what a failing call has already got is lost
                yield byte
        except (pa.ArrowException, OSError):
            return


def _decompressed(file: SourceFile, raw: _Raw) -> Any:
    if file.compression is None:
        return raw
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), file.compression)


@contextmanager
def content_of(
    file: SourceFile, open_stored: Callable[[], BinaryIO], disk: CacheDisk, bad: BadDocuments
) -> Iterator[BinaryIO]:
    """The whole content, to be sought in; it lies on disk until this ends.

    In the cache folder, or the system's folder for temporary files where that is full or cannot
    be written. Raises SourceError.
    """
    try:
        (disk.folder / "documents").mkdir(parents=True, exist_ok=True)
        spool = _spooled(file, open_stored, disk.folder / "documents", bad)
    except OSError as error:
        disk.bypass(error)
        bad.num_documents, bad.first = 0, ""
        try:
            spool = _spooled(file, open_stored, None, bad)
        except OSError as failure:
            raise SourceError(
                f"no room to decompress {file.name}: {failure.strerror or failure}; "
                "make room in the cache folder, or choose another one"
            ) from failure
    with spool:
        yield spool


def _spooled(
    file: SourceFile, open_stored: Callable[[], BinaryIO], folder: Path | None, bad: BadDocuments
) -> BinaryIO:
    spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (the caller closes it)
    try:
        for chunk in chunks_of(file, open_stored, bad):
            spool.write(chunk)
        spool.flush()
    except BaseException:
        with suppress(OSError):  # what is buffered still may not fit
            spool.close()
        raise
    return cast(BinaryIO, spool)
