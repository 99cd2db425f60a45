"""The token cache: one file a shard and split, mapped where large, checked when opened.

An entry is 64 bytes of header and the raw little-endian array.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import struct
import tempfile
import zlib
from dataclasses import astuple
from pathlib import Path

import numpy as np

from streamer.disk import DEFAULT_MAX_BYTES, CacheDisk
from streamer.tokens import ShardTokens, TokenSpec

log = logging.getLogger(__name__)

_MAGIC = b"BGTOKENS"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQQI")
"""Magic, version, bytes a token, tokens, documents, UTF-8 bytes, CRC-32 of the array. Zeros to
byte 60, then the CRC-32 of the 60 bytes before it."""
_HEADER_BYTES = 64

SMALLEST_MAPPED_BYTES = 4 << 20
"""Smaller entries are read: a mapping holds a file descriptor, and there may be many."""


class DamagedEntryError(Exception):
    """A cache entry that does not hold what its header promises."""


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME or ~/.cache, /babygpt_exp/tokens; a temporary folder where that fails."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    home = os.environ.get("HOME") or ""
    if not base and home:
        base = os.path.join(home, ".cache")
    if base and os.path.isabs(base):
        folder = Path(base, "babygpt_exp", "tokens")
        if _is_writable(folder):
            return folder
    fallback = Path(tempfile.gettempdir(), f"babygpt_exp-{os.getuid()}", "tokens")
    log.warning("no writable cache folder in the home directory: tokens are kept in %s", fallback)
    return fallback


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class TokenCache:
    """Entries by shard and specification, in one folder.

    Where the folder cannot be written, everything works from memory and a warning says so once.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder
        self.disk = CacheDisk(folder, max_bytes)
        """Shared with the documents of the sources, so that one limit holds for both."""

    def path(self, shard_fingerprint: str, spec: TokenSpec) -> Path:
        """Where the entry of a shard lies."""
        parts = json.dumps([_VERSION, shard_fingerprint, *astuple(spec)])
        key = hashlib.blake2b(parts.encode(), digest_size=20).hexdigest()
        return self.folder / "shards" / key[:2] / f"{key}.tokens"

    def load(self, shard_fingerprint: str, spec: TokenSpec) -> ShardTokens | None:
        """The entry, or None where there is none; a damaged one is removed."""
        path = self.path(shard_fingerprint, spec)
        try:
            found = _read(path, np.dtype(spec.dtype))
        except FileNotFoundError:
            return None
        except DamagedEntryError as error:
            self.disk.remove(path, error)
            return None
        except OSError as error:
            self.disk.bypass(error)
            return None
        self.disk.touch(path)
        return found

    def store(self, shard_fingerprint: str, spec: TokenSpec, made: ShardTokens) -> ShardTokens:
        """Writes an entry and returns it as read back, or `made` itself if that fails."""
        body = made.tokens.tobytes()
        path = self.path(shard_fingerprint, spec)
        if not self.disk.write(path, (_header(made, zlib.crc32(body)), body)):
            return made
        return self.load(shard_fingerprint, spec) or made


def _header(made: ShardTokens, crc: int) -> bytes:
    start = _HEADER.pack(
        _MAGIC,
        _VERSION,
        made.tokens.itemsize,
        made.tokens.size,
        made.num_documents,
        made.num_bytes,
        crc,
    ).ljust(_HEADER_BYTES - 4, b"\0")
    return start + struct.pack("<I", zlib.crc32(start))


def _read(path: Path, dtype: np.dtype[np.unsignedinteger]) -> ShardTokens:
    """Reads or maps an entry; checks all of it, which also brings it into memory."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_HEADER_BYTES)
        if len(start) < _HEADER_BYTES:
            raise DamagedEntryError("it is cut short")
        (header_crc,) = struct.unpack("<I", start[-4:])
        if zlib.crc32(start[:-4]) != header_crc:
            raise DamagedEntryError("the header's checksum differs")
        magic, version, itemsize, num_tokens, num_documents, num_bytes, crc = _HEADER.unpack(
            start[: _HEADER.size]
        )
        if (magic, version, itemsize) != (_MAGIC, _VERSION, dtype.itemsize):
            raise DamagedEntryError("it has another format")
        if size != _HEADER_BYTES + num_tokens * itemsize:
            raise DamagedEntryError("its size differs")
        if size < SMALLEST_MAPPED_BYTES:
            view = memoryview(file.read())
        else:
            view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
            view = view[_HEADER_BYTES:]
    if zlib.crc32(view) != crc:
        raise DamagedEntryError("the checksum differs")
    return ShardTokens(np.frombuffer(view, dtype), num_documents, num_bytes)
