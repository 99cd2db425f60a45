"""JSON lines: one object a line, the document in one of its fields.

A line belongs to the slice in which its first byte lies. A blank line is none; a null is no
document.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import BinaryIO

from streamer.errors import one_line
from streamer.sources.bad import BadDocuments

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLineError(Exception):
    """A line that is not what it should be; whoever knows its number says so."""


def parse_line(line: bytes, column: str) -> str | None:
    """The document of one line, None where the field is null; raises BadLineError."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"is not valid JSON ({one_line(str(error))})") from error
    if not isinstance(value, dict):
        raise BadLineError("is not a JSON object")
    if column not in value:
        found = ", ".join(value) or "none"
        raise BadLineError(
            f"has no field {column!r}; its fields are {found}; choose another column"
        )
    document = value[column]
    if document is None:
        return None
    if not isinstance(document, str):
        raise BadLineError(f"holds no text in its field {column!r}")
    if not document.isascii() and any("\ud800" <= letter <= "\udfff" for letter in document):
        raise BadLineError("holds half a surrogate pair, which is no text")
    return document


def read_slice(stream: BinaryIO, start: int, stop: int) -> tuple[int, bytes]:
    """The lines that begin in [start, stop), and where the first of them begins."""
    lead = 1 if start else 0  # whether a line begins at `start` is known by the byte before
    stream.seek(start - lead)
    data = stream.read(stop - start + lead)
    begin = data.find(b"\n") + 1 if lead else 0
    if (lead and not begin) or begin == len(data):
        return start, b""
    if not data.endswith(b"\n"):
        data += stream.readline()
    return start - lead + begin, data[begin:]


def read_documents(
    stream: BinaryIO,
    start: int,
    stop: int,
    column: str,
    bad: BadDocuments,
    line_at: Callable[[int], str],
) -> list[str]:
    """The documents of slice [start, stop); `line_at` names the line that begins at a byte."""
    position, data = read_slice(stream, start, stop)
    documents: list[str] = []
    for line in data.split(b"\n"):
        text = line.removeprefix(_BYTE_ORDER_MARK) if position == 0 else line
        if text and not text.isspace():
            try:
                document = parse_line(text, column)
                if document is not None:
                    documents.append(document)
            except BadLineError as error:
                bad.add(lambda position=position: line_at(position), str(error))  # type: ignore[misc]
        position += len(line) + 1
    return documents


def check_first_line(stream: BinaryIO, column: str, bad: BadDocuments) -> None:
    """Raises SourceError when the first line is bad, so that a wrong column is noticed early."""
    read_documents(stream, 0, 1, column, bad, lambda position: "line 1")


def line_number(stream: BinaryIO, position: int) -> int:
    """The number of the line that begins at byte `position`, counted from 1."""
    stream.seek(0)
    number = 1
    while position > 0 and (chunk := stream.read(min(position, 1 << 20))):
        number += chunk.count(b"\n")
        position -= len(chunk)
    return number
