"""JSON lines: one object a line, the document in one of its fields.

A line belongs to the slice in which its first byte lies. A blank line is none; a null is no
document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import BinaryIO

from streamer.errors import one_line
from streamer.sources.bad import BadDocuments
from streamer.sources.spec import SourceSpec

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLineError(Exception):
    """A line that is not what it should be; whoever knows its number says so."""


def parse_line(line: bytes, columns: Sequence[str]) -> dict[str, str | None]:
    """The wanted fields of one line; raises BadLineError."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"is not valid JSON ({one_line(str(error))})") from error
    if not isinstance(value, dict):
        raise BadLineError("is not a JSON object")
    return {column: _text(value, column) for column in columns}


def _text(value: dict[str, object], column: str) -> str | None:
    if column not in value:
        found = ", ".join(value) or "none"
        raise BadLineError(
            f"has no field {column!r}; its fields are {found}; choose another column"
        )
    text = value[column]
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadLineError(f"holds no text in its field {column!r}")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadLineError("holds half a surrogate pair, which is no text")
    return text


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
    spec: SourceSpec,
    bad: BadDocuments,
    line_at: Callable[[int], str],
) -> list[str]:
    """The texts of slice [start, stop); `line_at` names the line that begins at a byte."""
    position, data = read_slice(stream, start, stop)
    documents: list[str] = []
    for line in data.split(b"\n"):
        text = line.removeprefix(_BYTE_ORDER_MARK) if position == 0 else line
        if text and not text.isspace():
            try:
                documents += spec.parts(parse_line(text, spec.columns))
            except BadLineError as error:
                bad.add(lambda position=position: line_at(position), str(error))  # type: ignore[misc]
        position += len(line) + 1
    return documents


def check_first_line(stream: BinaryIO, spec: SourceSpec, bad: BadDocuments) -> None:
    """Raises SourceError when the first line is bad, so that a wrong column is noticed early."""
    read_documents(stream, 0, 1, spec, bad, lambda position: "line 1")


def line_number(stream: BinaryIO, position: int) -> int:
    """The number of the line that begins at byte `position`, counted from 1."""
    stream.seek(0)
    number = 1
    while position > 0 and (chunk := stream.read(min(position, 1 << 20))):
        number += chunk.count(b"\n")
        position -= len(chunk)
    return number
