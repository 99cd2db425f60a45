"""A source as a list of shards: found from names and metadata, read only when reached."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.errors import SourceError
from streamer.sources.files import SUFFIXES, Identity, SourceFile, format_of, local_identity
from streamer.sources.spec import SourceSpec

SLICE_BYTES = 16 << 20
"""Nominal size of a slice of text: prepared in seconds, and large enough to be worth a file."""

EXPANSION = 4
"""Nominal size of a compressed file's content, in sizes of the file. How large it is indeed is
not known before it is read; this decides only into how many equal slices it is cut then."""

FORMAT_VERSION = 2
"""Raised whenever the same file would give other shards or other documents than before."""


@dataclass(frozen=True)
class Shard:
    """A row group, or a slice of whole documents of a text file."""

    file: SourceFile
    """The file it lies in."""
    start: int
    """Number of the row group; for a slice the nominal first byte; in a compressed file the
    number of the slice."""
    stop: int
    """The number or byte after it."""
    num_slices: int
    """Equal slices of a compressed file's content, 0 for another file."""
    fingerprint: str
    """Hash of all that decides its documents: 40 hexadecimal digits."""

    def span(self, num_bytes: int) -> tuple[int, int]:
        """Nominal first byte and the one after the last, in content of `num_bytes`."""
        if not self.num_slices:
            return self.start, self.stop
        return (
            num_bytes * self.start // self.num_slices,
            num_bytes * self.stop // self.num_slices,
        )


@dataclass(frozen=True)
class Listing:
    """One source at one moment."""

    name: str
    """For people; no part of its identity."""
    spec: SourceSpec
    """What it was made for."""
    snapshot: dict[str, Identity]
    """The files it was made from, by address, to notice a change."""
    shards: list[Shard]
    """In natural order: files by path, then by position."""
    num_bytes: int
    """Size of all files as stored."""
    fingerprint: str
    """Hash of the shards' fingerprints in order: 64 hexadecimal digits."""


def find_local(source: str) -> dict[str, Identity]:
    """The files of a local source in order; raises SourceError when there are none."""
    root = Path(source)
    if root.is_dir():
        found = [
            Path(folder, name)
            for folder, _, names in os.walk(root)
            for name in names
            if not any(part.startswith(".") for part in Path(folder, name).relative_to(root).parts)
        ]
    elif root.exists():
        if format_of(root.name) is None:
            raise SourceError(f"{source} is none of {', '.join(SUFFIXES)}; convert or rename it")
        found = [root]
    elif glob.has_magic(source):
        found = [Path(path) for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
    else:
        raise SourceError(f"source not found: {source} (give a file, a folder or a glob)")
    files = sorted(path.as_posix() for path in found if format_of(path.name))
    if not files:
        raise no_files(source)
    return {path: local_identity(path) for path in files}


def no_files(source: str) -> SourceError:
    """The error for a folder or glob without a file that can be read."""
    return SourceError(f"no files in {source} are any of {', '.join(SUFFIXES)}")


def remote_digest(file: SourceFile, footer_digest: str) -> SourceFile:
    """A remote file with its digest: the store's own SHA-256, or a hash of what is known."""
    kind, _, value = file.identity.version.partition(":")
    if kind != "sha256":
        parts = ["remote", file.identity.version, file.identity.num_bytes, footer_digest]
        value = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return replace(file, digest=value)


def shards_of(file: SourceFile, spec: SourceSpec, row_counts: list[int] | None) -> list[Shard]:
    """The shards of one file in order; `row_counts` are those of a parquet file's row groups."""
    num_bytes, num_slices = file.identity.num_bytes, 0
    if row_counts is not None:
        spans = [(group, group + 1) for group, num_rows in enumerate(row_counts) if num_rows]
    elif file.compression is not None:
        num_slices = -(-num_bytes * EXPANSION // SLICE_BYTES)
        spans = [(index, index + 1) for index in range(num_slices)]
    else:
        starts = range(0, num_bytes, SLICE_BYTES)
        spans = [(start, min(start + SLICE_BYTES, num_bytes)) for start in starts]
    return [
        Shard(file, *span, num_slices, _fingerprint(file, spec, num_slices, span)) for span in spans
    ]


def _fingerprint(file: SourceFile, spec: SourceSpec, num_slices: int, span: tuple[int, int]) -> str:
    column = "" if file.format == "text" else spec.column
    parts = [FORMAT_VERSION, file.format, file.compression, file.digest, column]
    parts += [spec.on_bad_document, num_slices, *span]
    if spec.prompt is not None:
        parts.append(spec.prompt)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def source_fingerprint(shards: list[Shard]) -> str:
    """Hash of the shards' fingerprints in order."""
    return hashlib.sha256(json.dumps([shard.fingerprint for shard in shards]).encode()).hexdigest()
