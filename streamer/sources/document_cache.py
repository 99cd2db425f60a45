"""The document cache: a shard's documents as they were read, where reading them again is dear.

An entry is 64 bytes of header, then compressed: the documents' lengths, their text, and what was
skipped.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from streamer.disk import CacheDisk

log = logging.getLogger(__name__)

_MAGIC = b"BGDOCUMT"
_VERSION = 1
_HEADER = struct.Struct("<8sIQQQI")
"""Magic, version, documents, UTF-8 bytes, bytes uncompressed, CRC-32 of what follows the header.
Zeros to byte 60, then the CRC-32 of the 60 bytes before it."""
_HEADER_BYTES = 64
_CODEC = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True)
class Documents:
    """What a shard holds."""

    texts: list[str]
    """In their order; of instructions each prompt and then its response."""
    num_bad: int
    """Documents that were skipped."""
    first_bad: str
    """What was wrong with the first of them."""


class DocumentCache:
    """Entries by shard, in the folder and under the limit that the token cache has too."""

    def __init__(self, disk: CacheDisk) -> None:
        self._disk = disk

    def path(self, fingerprint: str) -> Path:
        """Where the entry of a shard lies."""
        return self._disk.folder / "documents" / fingerprint[:2] / f"{fingerprint}.documents"

    def load(self, fingerprint: str) -> Documents | None:
        """The entry, or None where there is none; a damaged one is removed."""
        path = self.path(fingerprint)
        try:
            found = _decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._disk.remove(path, error)
            return None
        except OSError as error:
            self._disk.bypass(error)
            return None
        self._disk.touch(path)
        return found

    def store(self, fingerprint: str, documents: Documents) -> None:
        """Writes an entry, if that can be done."""
        self._disk.write(self.path(fingerprint), _encode(documents))

    def load_tail(self, key: str) -> bytes | None:
        """The bytes of a remote file's footer, or None."""
        path = self._tail_path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if len(data) < 4 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            self._disk.remove(path, "the checksum differs")
            return None
        self._disk.touch(path)
        return data[4:]

    def store_tail(self, key: str, tail: bytes) -> None:
        """Keeps the bytes of a remote file's footer, if that can be done."""
        self._disk.write(self._tail_path(key), (zlib.crc32(tail).to_bytes(4, "little"), tail))

    def _tail_path(self, key: str) -> Path:
        return self._disk.folder / "footers" / key[:2] / f"{key}.footer"


def _encode(documents: Documents) -> tuple[bytes, bytes]:
    encoded = [text.encode() for text in documents.texts]
    lengths = np.fromiter(map(len, encoded), "<u8", len(encoded))
    bad = json.dumps([documents.num_bad, documents.first_bad]).encode()
    content = b"".join([lengths.tobytes(), *encoded, bad])
    body: bytes = _CODEC.compress(content, asbytes=True)
    num_bytes = int(lengths.sum())
    start = _HEADER.pack(
        _MAGIC, _VERSION, len(encoded), num_bytes, len(content), zlib.crc32(body)
    ).ljust(_HEADER_BYTES - 4, b"\0")
    return start + struct.pack("<I", zlib.crc32(start)), body


def _decode(data: bytes) -> Documents:
    """Raises ValueError for what `_encode` did not make."""
    start, body = data[:_HEADER_BYTES], memoryview(data)[_HEADER_BYTES:]
    if len(start) < _HEADER_BYTES or zlib.crc32(start[:-4]) != int.from_bytes(start[-4:], "little"):
        raise ValueError("the header's checksum differs")
    magic, version, num_documents, num_bytes, size, crc = _HEADER.unpack(start[: _HEADER.size])
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("it has another format")
    if zlib.crc32(body) != crc:
        raise ValueError("the checksum differs")
    content: bytes = _CODEC.decompress(body, decompressed_size=size, asbytes=True)
    position = 8 * num_documents
    texts = []
    for length in np.frombuffer(content, "<u8", num_documents).tolist():
        texts.append(content[position : position + length].decode())
        position += length
    num_bad, first_bad = json.loads(content[8 * num_documents + num_bytes :])
    return Documents(texts, num_bad, first_bad)
