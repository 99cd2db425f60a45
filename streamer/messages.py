"""Control messages as text: JSON in and out, without letting a client choose what that costs."""

from __future__ import annotations

import json
import re
from typing import Any

from streamer.errors import RequestError

_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\r\n]*")
_SIMPLE = re.compile(r"-?\d{1,18}|null|true|false")


def parse(text: str) -> object:
    """The value of a short message; raises RequestError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("bad_request", "", f"a message that is no JSON: {error}") from error


def parse_flat(text: str) -> dict[str, object]:
    """The object of a long message, as a tokenizer's is: strings, integers and words, no lists.

    Millions of nested lists would take a hundred times the memory of their text. Raises
    RequestError.
    """
    found: dict[str, object] = {}
    try:
        at = _expect(text, 0, "{")
        while True:
            key, at = _string(text, at)
            found[key], at = _value(text, _expect(text, at, ":"))
            if text[at : at + 1] != ",":
                break
            at = _expect(text, at, ",")
        if _expect(text, at, "}") != len(text):
            raise ValueError(f"something follows at character {at}")
    except ValueError as error:
        message = f"a message of {len(text)} characters that is no flat JSON object: {error}"
        raise RequestError("bad_request", "", message) from error
    return found


def _expect(text: str, at: int, character: str) -> int:
    """Where the next word begins after `character`."""
    if text[at : at + 1] != character:
        raise ValueError(f"no {character} at character {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise ValueError(f"no string at character {at}")
    value, end = _DECODER.raw_decode(text, at)
    return value, _skip(text, end)


def _value(text: str, at: int) -> tuple[object, int]:
    simple = _SIMPLE.match(text, at)
    if simple is None:
        return _string(text, at)
    return json.loads(simple[0]), _skip(text, simple.end())


def dump(message: dict[str, Any]) -> str:
    """A message as text."""
    return json.dumps(message, ensure_ascii=False)
