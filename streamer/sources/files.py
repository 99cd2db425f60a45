"""Files as bytes: which formats there are, what is in a file, and how it is opened."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from streamer.errors import SourceError

log = logging.getLogger(__name__)

READ_BYTES = 1 << 20
SETTLED_SECONDS = 2.0
"""A file modified more recently than this may still change within one tick of its time stamp,
so that what is known of it is not remembered."""

SUFFIXES: dict[str, tuple[str, str | None]] = {
    ".parquet": ("parquet", None),
    ".jsonl": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gzip"),
    ".jsonl.zst": ("jsonl", "zstd"),
    ".txt": ("text", None),
    ".txt.gz": ("text", "gzip"),
    ".txt.zst": ("text", "zstd"),
}


def format_of(path: Path) -> tuple[str, str | None] | None:
    """The format (parquet, jsonl, text) and compression of a file by its name, None if neither."""
    name = path.name.lower()
    return next((found for suffix, found in SUFFIXES.items() if name.endswith(suffix)), None)


@dataclass(frozen=True)
class Identity:
    """What the file system says of a file; another identity means that it may have changed."""

    num_bytes: int
    """Size on disk."""
    modified_nanoseconds: int
    """Time stamp of the last modification."""
    inode: int
    """Differs when a file was replaced by rename."""

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Raises SourceError when the file is gone."""
        try:
            found = path.stat()
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source as it was when listed."""

    path: Path
    """Where it lies."""
    identity: Identity
    """To notice a change."""
    digest: str
    """SHA-256 of the file's bytes, hexadecimal."""
    num_bytes: int
    """Size of its content, decompressed where it is compressed."""

    @property
    def format(self) -> str:
        """parquet, jsonl or text."""
        found = format_of(self.path)
        assert found is not None, self.path
        return found[0]

    def check_unchanged(self) -> None:
        """Raises SourceError when the file is not the one that was listed."""
        if Identity.of(self.path) != self.identity:
            raise SourceError(
                f"{self.path} changed after it was listed; open the stream again to use it as it is"
            )


def open_bytes(path: Path) -> BinaryIO:
    """The decompressed content of a file, to be read from the start.

    Raises OSError, also later while reading, for a damaged or truncated compressed file.
    """
    found = format_of(path)
    if found is None or found[1] is None:
        return open(path, "rb", buffering=READ_BYTES)
    raw = pa.input_stream(str(path), compression=found[1])
    return cast(BinaryIO, io.BufferedReader(raw, READ_BYTES))


def skip(stream: BinaryIO, num_bytes: int) -> None:
    """Moves on by `num_bytes` from the start, also where a stream cannot seek."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        stream.seek(num_bytes)
        return
    while num_bytes > 0:
        chunk = stream.read(min(num_bytes, READ_BYTES))
        if not chunk:
            return
        num_bytes -= len(chunk)


class FileMemo:
    """Remembers digests and decompressed sizes of files, one small JSON file each.

    A folder that cannot be written costs the work again, nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def describe(self, path: Path) -> SourceFile:
        """Hashes and measures a file, or recalls it; raises SourceError."""
        identity = Identity.of(path)
        entry = self._entry(path, identity)
        known = self._recall(entry)
        if known is None:
            known = self._measure(path)
            if Identity.of(path) != identity:
                raise SourceError(f"{path} is being written to; try again when it is complete")
            if time.time() - identity.modified_nanoseconds / 1e9 > SETTLED_SECONDS:
                self._remember(entry, known)
        return SourceFile(path, identity, known[0], known[1])

    def _entry(self, path: Path, identity: Identity) -> Path:
        parts = (os.path.abspath(path), *vars(identity).values())
        key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()
        return self.folder / f"{key}.json"

    def _recall(self, entry: Path) -> tuple[str, int] | None:
        try:
            known = json.loads(entry.read_bytes())
            return str(known["sha256"]), int(known["num_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, entry: Path, known: tuple[str, int]) -> None:
        temporary = entry.with_name(f"{entry.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"sha256": known[0], "num_bytes": known[1]}))
            temporary.replace(entry)
        except OSError as error:
            log.debug("cannot remember %s: %s", entry, error)

    def _measure(self, path: Path) -> tuple[str, int]:
        found = format_of(path)
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                num_bytes = file.tell()
            if found is not None and found[1] is not None:
                num_bytes = 0
                with open_bytes(path) as stream:
                    while chunk := stream.read(READ_BYTES):
                        num_bytes += len(chunk)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
        return digest, num_bytes
