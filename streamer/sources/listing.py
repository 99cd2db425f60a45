"""A source as a list of shards: found from names and metadata, read only when reached."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import SourceError
from streamer.sources import jsonl, parquet, text
from streamer.sources.files import SUFFIXES, FileMemo, Identity, SourceFile, format_of, open_bytes
from streamer.sources.spec import SourceSpec

SLICE_BYTES = 16 << 20
"""Nominal size of a slice of text: prepared in seconds, and large enough to be worth a file."""

FORMAT_VERSION = 1
"""Raised whenever the same file would give other shards or other documents than before."""


@dataclass(frozen=True)
class Shard:
    """A row group, or a slice of whole documents of a text file."""

    file: SourceFile
    """The file it lies in."""
    start: int
    """Number of the row group; for a slice the nominal first byte of decompressed content."""
    stop: int
    """The number or byte after it."""
    fingerprint: str
    """Hash of all that decides its documents: 40 hexadecimal digits."""


@dataclass(frozen=True)
class Listing:
    """One source at one moment."""

    name: str
    """For people; no part of its identity."""
    spec: SourceSpec
    """What it was made for."""
    snapshot: dict[Path, Identity]
    """The files it was made from, to notice a change."""
    shards: list[Shard]
    """In natural order: files by path, then by position."""
    num_bytes: int
    """Size of all files on disk."""
    fingerprint: str
    """Hash of the shards' fingerprints in order: 64 hexadecimal digits."""


def scan(source: str) -> dict[Path, Identity]:
    """The files of a source in order; raises SourceError when there are none."""
    root = Path(source)
    if root.is_dir():
        found = [
            Path(folder, name)
            for folder, _, names in os.walk(root)
            for name in names
            if not any(part.startswith(".") for part in Path(folder, name).relative_to(root).parts)
        ]
    elif root.exists():
        if format_of(root) is None:
            raise SourceError(f"{source} is none of {', '.join(SUFFIXES)}; convert or rename it")
        found = [root]
    elif glob.has_magic(source):
        found = [Path(path) for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
    else:
        raise SourceError(f"source not found: {source} (give a file, a folder or a glob)")
    files = sorted((path for path in found if format_of(path)), key=lambda path: path.as_posix())
    if not files:
        raise SourceError(f"no files in {source} are any of {', '.join(SUFFIXES)}")
    return {path: Identity.of(path) for path in files}


def list_source(spec: SourceSpec, memo: FileMemo) -> Listing:
    """Lists a source: hashes its files and finds its shards; raises SourceError.

    Takes as long as reading all of it once, unless `memo` knows its files.
    """
    source, column = spec.address, spec.column
    snapshot = scan(source)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        files = list(pool.map(memo.describe, snapshot))
        shards = [
            shard for found in pool.map(lambda f: _list_file(f, column), files) for shard in found
        ]
    if not shards:
        raise SourceError(f"{source} holds no text: every file in it is empty")
    digest = hashlib.sha256(json.dumps([shard.fingerprint for shard in shards]).encode())
    return Listing(
        name=Path(source).name.split(".")[0] or source,
        spec=spec,
        snapshot={file.path: file.identity for file in files},
        shards=shards,
        num_bytes=sum(file.identity.num_bytes for file in files),
        fingerprint=digest.hexdigest(),
    )


def _list_file(file: SourceFile, column: str) -> list[Shard]:
    if file.format == "parquet":
        counts = parquet.row_counts(file.path, column)
        spans = [(group, group + 1) for group, num_rows in enumerate(counts) if num_rows]
    else:
        if file.format == "jsonl":
            _check_first_line(file, column)
        starts = range(0, file.num_bytes, SLICE_BYTES)
        spans = [(start, min(start + SLICE_BYTES, file.num_bytes)) for start in starts]
    return [Shard(file, *span, _fingerprint(file, column, span)) for span in spans]


def _fingerprint(file: SourceFile, column: str, span: tuple[int, int]) -> str:
    used = "" if file.format == "text" else column
    parts = json.dumps([FORMAT_VERSION, file.format, file.digest, used, *span])
    return hashlib.blake2b(parts.encode(), digest_size=20).hexdigest()


def _check_first_line(file: SourceFile, column: str) -> None:
    try:
        with open_bytes(file.path) as stream:
            _, error, _ = jsonl.read_documents(stream, 0, 1, column)
    except OSError as failure:
        raise SourceError(f"cannot read {file.path}: {failure.strerror or failure}") from failure
    if error is not None:
        raise SourceError(f"{file.path} line 1 {error}")


def read_shard(shard: Shard, spec: SourceSpec) -> list[str]:
    """The documents of one shard in order.

    Raises SourceError naming file and row group or line when they cannot be read, or when the
    file is no longer the one that was listed.
    """
    file, column = shard.file, spec.column
    file.check_unchanged()
    if file.format == "parquet":
        documents = parquet.read_documents(file.path, shard.start, column)
    else:
        documents = _read_slice(shard, column)
    file.check_unchanged()
    return documents


def _read_slice(shard: Shard, column: str) -> list[str]:
    path, name = shard.file.path, str(shard.file.path)
    try:
        with open_bytes(path) as stream:
            if shard.file.format == "text":
                return text.read_documents(
                    name, stream, shard.start, shard.stop, shard.file.num_bytes
                )
            documents, error, position = jsonl.read_documents(
                stream, shard.start, shard.stop, column
            )
        if error is None:
            return documents
        with open_bytes(path) as stream:
            raise jsonl.bad_line(name, stream, position, error)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
