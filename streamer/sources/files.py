"""Files of a source: which formats there are, and what is known of one before it is read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from streamer.errors import SourceError
from streamer.sources.address import shown, without_query

log = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file modified more recently than this may still change within one tick of its time stamp,
so that what is known of it is not remembered."""
HASHED_BYTES = 256 << 20
"""A local file up to this size is hashed in full; of a larger one the size and samples are, so
that a folder of any size is listed within minutes at most, the first time."""
SAMPLE_BYTES = 1 << 20
"""Size of a sample: the first, the last, and evenly spaced between them, HASHED_BYTES in all."""

SUFFIXES: dict[str, tuple[str, str | None]] = {
    ".parquet": ("parquet", None),
    ".jsonl": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gzip"),
    ".jsonl.zst": ("jsonl", "zstd"),
    ".txt": ("text", None),
    ".txt.gz": ("text", "gzip"),
    ".txt.zst": ("text", "zstd"),
}


def format_of(address: str) -> tuple[str, str | None] | None:
    """The format (parquet, jsonl, text) and compression of a file by its name, None if neither."""
    name = without_query(address).rsplit("/", 1)[-1].lower()
    return next((found for suffix, found in SUFFIXES.items() if name.endswith(suffix)), None)


@dataclass(frozen=True)
class Identity:
    """What the place where a file lies says of it; another identity means that it may differ."""

    num_bytes: int
    """Size as stored."""
    version: str
    """Local: time of modification and inode, which differ when it was written or replaced.
    Remote: the hash, ETag, version or time of modification that the store gives."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source as it was when listed."""

    address: str
    """Where it lies, with the secrets of its URL if it has any; see `name`."""
    identity: Identity
    """To notice a change."""
    digest: str
    """Hash of the content. Local: SHA-256 of up to 256 MiB, of samples of a larger file. Remote:
    of what the store says, since the content has not been read."""
    pinned: str = ""
    """Address under which a remote file can not change, where the store has such addresses."""
    has_ranges: bool = True
    """Whether a part can be had without the rest."""

    @property
    def name(self) -> str:
        """The address as it may be shown."""
        return shown(self.address)

    @property
    def format(self) -> str:
        """parquet, jsonl or text."""
        return self._format[0]

    @property
    def compression(self) -> str | None:
        """gzip, zstd or None."""
        return self._format[1]

    @property
    def is_read_whole(self) -> bool:
        """Whether all its shards are prepared in one pass."""
        return self.compression is not None or not self.has_ranges

    @property
    def _format(self) -> tuple[str, str | None]:
        found = format_of(self.address)
        assert found is not None, self.address
        return found

    def changed(self) -> SourceError:
        """The error for a file that is no longer the one that was listed."""
        return SourceError(
            f"{self.name} changed after it was listed; open the stream again to use it as it is"
        )


def local_identity(path: str) -> Identity:
    """What the file system says of a file; raises SourceError when it is gone."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    return Identity(found.st_size, f"{found.st_mtime_ns}-{found.st_ino}")


def content_hash(path: str) -> str:
    """SHA-256 of a file's content, or of size and samples above HASHED_BYTES; raises OSError."""
    with open(path, "rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes <= HASHED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"samples of {num_bytes} bytes".encode())
        num_samples = HASHED_BYTES // SAMPLE_BYTES
        for index in range(num_samples):
            file.seek((num_bytes - SAMPLE_BYTES) * index // (num_samples - 1))
            digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()


class FileMemo:
    """Remembers the digests of local files, one small JSON file each.

    A folder that cannot be written costs the work again, nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def describe(self, path: str) -> SourceFile:
        """Hashes a file, or recalls its hash; raises SourceError."""
        identity = local_identity(path)
        entry = self._entry(path, identity)
        digest = self._recall(entry)
        if digest is None:
            try:
                digest = content_hash(path)
            except OSError as error:
                raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
            if local_identity(path) != identity:
                raise SourceError(f"{path} is being written to; try again when it is complete")
            modified = int(identity.version.split("-")[0]) / 1e9
            if time.time() - modified > SETTLED_SECONDS:
                self._remember(entry, digest)
        return SourceFile(path, identity, digest)

    def _entry(self, path: str, identity: Identity) -> Path:
        parts = (os.path.abspath(path), *astuple(identity), HASHED_BYTES)
        key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()
        return self.folder / f"{key}.json"

    def _recall(self, entry: Path) -> str | None:
        try:
            return str(json.loads(entry.read_bytes())["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, entry: Path, digest: str) -> None:
        temporary = entry.with_name(f"{entry.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"sha256": digest}))
            temporary.replace(entry)
        except OSError as error:
            log.debug("cannot remember %s: %s", entry, error)
