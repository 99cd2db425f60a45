"""Tokens into text as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

import codecs

from babygpt_exp.tokenizer import TextTokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What bytes become that are no character, or not yet."""

MOST_PENDING = 8
"""Tokens without byte names that are waited for until a character is complete; then it is none."""


class TextStream:
    """The text of one sequence of tokens, piece by piece.

    For byte-level tokenizers all pieces together are exactly what `decode` gives for all tokens.
    For others, whose text of a token depends on its neighbours, a piece is what `decode` gives
    more with a token than without.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._said: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that is complete with this token and was not before."""
        if self._bytes is not None:
            return self._decoder.decode(self._bytes.get(token, b""))
        self._pending.append(token)
        text = self._text_of_pending()
        if text.endswith(UNKNOWN) and len(self._pending) < MOST_PENDING:
            return ""
        if text:
            self._said, self._pending = self._pending, []
        return text

    def end(self) -> str:
        """The rest, once no token follows."""
        if self._bytes is not None:
            return self._decoder.decode(b"", True)
        text = self._text_of_pending()
        self._said, self._pending = self._pending, []
        return text

    def _text_of_pending(self) -> str:
        """What tokens add that nothing has been said of, behind those said last."""
        decode = self._tokenizer.decode
        return decode(self._said + self._pending)[len(decode(self._said)) :]


class StopStrings:
    """Text that is let through up to the first of some strings.

    What may be the beginning of one is held back until more is known.
    """

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._strings, self._held = strings, ""

    def add(self, text: str) -> tuple[str, bool]:
        """Text to let through now, and whether a stop string has come."""
        self._held += text
        places = [place for s in self._strings if (place := self._held.find(s)) >= 0]
        if places:
            text, self._held = self._held[: min(places)], ""
            return text, True
        kept = self._length_of_beginning()
        end = len(self._held) - kept
        text, self._held = self._held[:end], self._held[end:]
        return text, False

    def end(self) -> str:
        """What was held back, once no text follows."""
        text, self._held = self._held, ""
        return text

    def _length_of_beginning(self) -> int:
        """Length of the longest end of the text that some stop string begins with."""
        most = min(len(self._held), max(map(len, self._strings), default=0) - 1)
        return next(
            (
                n
                for n in range(most, 0, -1)
                if any(s.startswith(self._held[-n:]) for s in self._strings)
            ),
            0,
        )
