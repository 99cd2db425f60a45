r"""Plain text, cut into documents without losing a byte.

A document ends after a blank line once it has 4 KiB; where none comes within 64 KiB, after the
next newline. A slice of a file begins at the first such place at or after its nominal start, so
that slices depend on the content alone, and joined documents are the file.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from streamer.sources.bad import BadDocuments

READ_BYTES = 1 << 20
SMALLEST_BYTES = 4 << 10
LARGEST_BYTES = 64 << 10
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\r?\n)+")


def find_cut(
    data: bytes | bytearray, position: int, stop: int, window_bytes: int = LARGEST_BYTES
) -> int | None:
    """The first place at or after `position` where a document may end, None if not before `stop`.

    Right after the blank lines that begin within `window_bytes`, else right after the first
    newline beyond it. All positions count bytes of `data`.
    """
    if position >= stop:
        return None
    match = _BLANK_LINES.search(data, position, min(stop, position + window_bytes))
    if match:
        return match.end()
    newline = data.find(b"\n", position + window_bytes, stop)
    return None if newline < 0 else newline + 1


def read_slice(stream: BinaryIO, start: int, stop: int, size: int) -> tuple[int, bytes]:
    """The bytes of slice [start, stop) of a file of `size` bytes, moved to where documents end.

    With the byte at which they begin.
    """
    stream.seek(start)
    data = bytearray(stream.read(stop - start + LARGEST_BYTES))
    length = stop - start
    if stop >= size:
        end = len(data)
    else:
        while (found := find_cut(data, length, len(data))) is None:
            chunk = stream.read(READ_BYTES)
            if not chunk:
                break
            data += chunk
        end = len(data) if found is None else found
    begin = 0 if start == 0 else find_cut(data, 0, end)
    begin = end if begin is None else begin
    return start + begin, bytes(data[begin:end])


def read_documents(
    stream: BinaryIO, start: int, stop: int, size: int, bad: BadDocuments
) -> list[str]:
    """The documents of one slice; one that is not UTF-8 is bad."""
    begin, data = read_slice(stream, start, stop, size)
    documents: list[str] = []
    position, rest = 0, LARGEST_BYTES - SMALLEST_BYTES
    while position < len(data):
        cut = find_cut(data, position + SMALLEST_BYTES, len(data), rest) or len(data)
        try:
            documents.append(data[position:cut].decode())
        except UnicodeDecodeError as error:
            place = f"byte {begin + position + error.start}"
            bad.add(lambda place=place: place, "is not UTF-8; convert it first")  # type: ignore[misc]
        position = cut
    return documents
