"""A source as a list of shards: found from names and metadata, read only when reached."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, chain
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
class FileShards:
    """The shards of one file in order, made when they are looked at."""

    file: SourceFile
    """The file."""
    spec: SourceSpec
    """What it is read for."""
    starts: Sequence[int]
    """`start` of each."""
    size: int
    """`stop` less `start`, except at the end of the file."""
    num_slices: int
    """Of each."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Shard:
        start, stop = self._span(index)
        return Shard(self.file, start, stop, self.num_slices, self._fingerprint(start, stop))

    def __iter__(self) -> Iterator[Shard]:
        return map(self.__getitem__, range(len(self)))

    @property
    def fingerprints(self) -> str:
        """The JSON strings of all their fingerprints, with commas between them."""
        spans = map(self._span, range(len(self)))
        return ", ".join(f'"{self._fingerprint(*span)}"' for span in spans)

    def _span(self, index: int) -> tuple[int, int]:
        start = self.starts[index]
        is_bytes = self.size > 1
        stop = start + self.size
        return start, min(stop, self.file.identity.num_bytes) if is_bytes else stop

    def _fingerprint(self, start: int, stop: int) -> str:
        begun, end = self._hash
        made = begun.copy()
        made.update(f"{start}, {stop}{end}".encode())
        return made.hexdigest()

    @cached_property
    def _hash(self) -> tuple[blake2b, str]:
        """The hash of what comes before `start` in the JSON list of all parts, and its end."""
        file, spec = self.file, self.spec
        column = "" if file.format == "text" else spec.column
        parts = [FORMAT_VERSION, file.format, file.compression, file.digest, column]
        parts += [spec.on_bad_document, self.num_slices]
        begin = json.dumps(parts).removesuffix("]")
        end = "]" if spec.prompt is None else f", {json.dumps(spec.prompt)}]"
        return blake2b(f"{begin}, ".encode(), digest_size=20), end


@dataclass(frozen=True)
class Shards:
    """The shards of all files of a source. There may be millions: none is kept."""

    files: tuple[FileShards, ...]
    """In order, none without shards."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Shard:
        """By a number from 0 on; raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = bisect_right(self._ends, index)
        return self.files[at][index - self._ends[at] + len(self.files[at])]

    def __iter__(self) -> Iterator[Shard]:
        return chain.from_iterable(self.files)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.files)))


@dataclass(frozen=True)
class Listing:
    """One source at one moment."""

    name: str
    """For people; no part of its identity."""
    spec: SourceSpec
    """What it was made for."""
    snapshot: dict[str, Identity]
    """The files it was made from, by address, to notice a change."""
    shards: Shards
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


def shards_of(file: SourceFile, spec: SourceSpec, row_counts: list[int] | None) -> FileShards:
    """The shards of one file in order; `row_counts` are those of a parquet file's row groups."""
    num_bytes = file.identity.num_bytes
    if row_counts is not None:
        groups = range(len(row_counts))
        starts = groups if all(row_counts) else [each for each in groups if row_counts[each]]
        return FileShards(file, spec, starts, 1, 0)
    if file.compression is not None:
        num_slices = -(-num_bytes * EXPANSION // SLICE_BYTES)
        return FileShards(file, spec, range(num_slices), 1, num_slices)
    return FileShards(file, spec, range(0, num_bytes, SLICE_BYTES), SLICE_BYTES, 0)


def source_fingerprint(fingerprints: Iterable[str]) -> str:
    """Hash of the JSON list of all shards' fingerprints in order, given file by file."""
    digest, comma = hashlib.sha256(b"["), b""
    for each in fingerprints:
        digest.update(comma + each.encode())
        comma = b", "
    digest.update(b"]")
    return digest.hexdigest()
