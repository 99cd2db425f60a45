"""Parquet: a row group is a shard, a row is a document, a null is no document."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streamer.errors import SourceError, one_line


def row_counts(path: Path, column: str) -> list[int]:
    """Rows of each row group, from the footer; raises SourceError naming what is wrong."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            metadata = file.metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"cannot read {path} as parquet: {one_line(str(error))}") from error
    if column not in schema.names:
        found = ", ".join(schema.names) or "none"
        raise SourceError(
            f"{path} has no column {column!r}; its columns are {found}; choose another column"
        )
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise SourceError(f"column {column!r} of {path} is {kind}, not text; choose another column")
    return counts


def read_documents(path: Path, row_group: int, column: str) -> list[str]:
    """The documents of one row group; raises SourceError naming it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read_row_group(row_group, columns=[column])
        return [text for text in table.column(column).to_pylist() if text is not None]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"cannot read row group {row_group} of {path}: {one_line(str(error))}"
        ) from error
