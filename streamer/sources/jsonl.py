"""JSON lines: one object a line, the document in one of its fields.

A line belongs to the slice in which its first byte lies. A blank line is none; a null is no
document.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from streamer.errors import SourceError, one_line
from streamer.sources.files import skip

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


def read_documents(
    stream: BinaryIO, start: int, stop: int, column: str
) -> tuple[list[str], BadLineError | None, int]:
    """The documents of slice [start, stop) up to the first bad line.

    Returns them, the bad line's error if there is one, and the byte at which that line begins.
    """
    position = start
    if start > 0:
        skip(stream, start - 1)
        position += len(stream.readline()) - 1
    documents: list[str] = []
    while position < stop:
        line = stream.readline()
        if not line:
            break
        text = line.removeprefix(_BYTE_ORDER_MARK) if position == 0 else line
        if not text.isspace() and text:
            try:
                document = parse_line(text, column)
            except BadLineError as error:
                return documents, error, position
            if document is not None:
                documents.append(document)
        position += len(line)
    return documents, None, position


def bad_line(name: str, stream: BinaryIO, position: int, error: BadLineError) -> SourceError:
    """The error of the line that begins at byte `position`; `stream` is read from the start."""
    number = 1
    while position > 0 and (line := stream.readline()):
        position -= len(line)
        number += 1
    return SourceError(f"{name} line {number} {error}")
