"""Parquet: a row group is a shard, a row is a document, a null is no document.

Of a row group only the column's own pages are read, in one piece and before anything is decoded:
what fails after that is the fault of the bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from streamer.errors import SourceError, one_line
from streamer.sources.bad import BadDocuments
from streamer.sources.spec import SourceSpec

TAIL_BYTES = 64 << 10
"""Read from the end of a file at first: most footers are within it."""


@dataclass(frozen=True)
class Footer:
    """What the end of a file says of all of it."""

    metadata: pq.FileMetaData
    """Its row groups and columns."""
    digest: str
    """SHA-256 of its bytes."""


def read_tail(name: str, stream: BinaryIO, num_bytes: int) -> bytes:
    """The footer's bytes of a file of `num_bytes`; raises SourceError."""
    stream.seek(max(0, num_bytes - TAIL_BYTES))
    data = stream.read(TAIL_BYTES)
    length = int.from_bytes(data[-8:-4], "little") + 8
    if len(data) < 12 or data[-4:] != b"PAR1" or length > num_bytes:
        raise SourceError(
            f"cannot read {name} as parquet: it does not end as such a file does; is it complete?"
        )
    if length > len(data):
        stream.seek(num_bytes - length)
        data = stream.read(length)
    return data[-length:]


def parse_footer(name: str, tail: bytes) -> Footer:
    """The footer from its bytes; raises SourceError."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"cannot read {name} as parquet: {one_line(str(error))}") from error
    return Footer(metadata, hashlib.sha256(tail).hexdigest())


def row_counts(name: str, footer: Footer, columns: Sequence[str]) -> list[int]:
    """Rows of each row group; raises SourceError where a column is none, or none of text."""
    schema = footer.metadata.schema.to_arrow_schema()
    for column in columns:
        _check_column(name, schema, column)
    groups = range(footer.metadata.num_row_groups)
    return [footer.metadata.row_group(group).num_rows for group in groups]


def _check_column(name: str, schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        found = ", ".join(schema.names) or "none"
        raise SourceError(
            f"{name} has no column {column!r}; its columns are {found}; choose another column"
        )
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_kind(kind) for is_kind in _TEXT_KINDS):
        raise SourceError(f"column {column!r} of {name} is {kind}, not text; choose another column")


_TEXT_KINDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)


class _Pages(io.RawIOBase):
    """A file of which one range is at hand; what lies outside is read from `stream`."""

    def __init__(self, stream: BinaryIO, start: int, data: bytes, num_bytes: int) -> None:
        self._stream, self._start, self._data, self._num_bytes = stream, start, data, num_bytes
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        low = self._position - self._start
        size = self._num_bytes - self._position if size < 0 else size
        if low >= 0 and low + size <= len(self._data):
            found = self._data[low : low + size]
        else:
            try:
                self._stream.seek(self._position)
                found = self._stream.read(size)
            except OSError as error:
                raise SourceError(f"cannot read: {error.strerror or error}") from error
        self._position += len(found)
        return found


def read_documents(
    stream: BinaryIO,
    num_bytes: int,
    footer: Footer,
    row_group: int,
    spec: SourceSpec,
    bad: BadDocuments,
) -> list[str]:
    """The texts of one row group.

    Rows that are not UTF-8 are bad; where a column's pages cannot be decoded, all rows are.
    """
    columns: dict[str, list[str | bytes | None]] = {}
    for column in spec.columns:
        found = _read_column(stream, num_bytes, footer, row_group, column, bad)
        if found is None:
            return []
        columns[column] = found
    texts: list[str] = []
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        if any(isinstance(value, bytes) for value in values):
            bad.add(partial("row group {} row {}".format, row_group, row), "is not UTF-8")
        else:
            texts += spec.parts(dict(zip(columns, values, strict=True)))
    return texts


def _read_column(
    stream: BinaryIO, num_bytes: int, footer: Footer, row_group: int, column: str, bad: BadDocuments
) -> list[str | bytes | None] | None:
    """A column of a row group, None where it cannot be read; what is not UTF-8 stays bytes."""
    place, group = f"row group {row_group}", footer.metadata.row_group(row_group)
    start, stop = _page_range(group, column)
    if stop > num_bytes:
        bad.add(lambda: place, "lies beyond the end of the file", group.num_rows)
        return None
    stream.seek(start)
    pages = _Pages(stream, start, stream.read(stop - start), num_bytes)
    try:
        with pq.ParquetFile(
            pages, metadata=footer.metadata, page_checksum_verification=True
        ) as file:
            values = file.read_row_group(row_group, columns=[column]).column(column)
            if len(values) != group.num_rows:
                raise pa.ArrowInvalid(f"{len(values)} of {group.num_rows} rows")
    except (pa.ArrowException, OSError) as error:
        bad.add(lambda: place, f"cannot be read: {one_line(str(error))}", group.num_rows)
        return None
    return _as_texts(values)


def _page_range(group: pq.RowGroupMetaData, column: str) -> tuple[int, int]:
    chunks = (group.column(index) for index in range(group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size


def _as_texts(values: pa.ChunkedArray) -> list[str | bytes | None]:
    if pa.types.is_dictionary(values.type):
        chunks = [chunk.dictionary_decode() for chunk in values.chunks]
        values = pa.chunked_array(chunks, values.type.value_type)
    try:
        texts: list[str | bytes | None] = values.cast(pa.large_string()).to_pylist()
        return texts  # the cast has checked what was bytes
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return [_decoded(value) for value in values.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
