"""A prompt's template: pieces of text with the columns of a row in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

MAX_PIECES = 64
MAX_PIECE_BYTES = 1 << 16
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class Template:
    """Pieces such as "### Input:\\n{input}\\n\\n", put one behind the other.

    A piece with a column that is empty or null is left out. What a column holds is text, and its
    braces are braces. Raises ValueError for pieces that are no template.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        if len(self.pieces) > MAX_PIECES:
            raise ValueError(f"has more than {MAX_PIECES} pieces")
        for piece in self.pieces:
            if re.search("[{}]", _PLACEHOLDER.sub("", piece)):
                raise ValueError(f"has a brace that is no part of a {{column}}: {piece!r}")
            if len(piece.encode()) > MAX_PIECE_BYTES:
                raise ValueError(f"has a piece of more than {MAX_PIECE_BYTES} bytes")
        if not self.columns:
            raise ValueError("has no {column} in it")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that are filled in, in the order in which they are met first."""
        return tuple(dict.fromkeys(_PLACEHOLDER.findall("".join(self.pieces))))

    def fill(self, values: Mapping[str, str | None]) -> str:
        """The prompt of a row; columns that it lacks are empty."""
        return "".join(
            _PLACEHOLDER.sub(lambda found: str(values[found[1]]), piece)
            for piece in self.pieces
            if all(values.get(column) for column in _PLACEHOLDER.findall(piece))
        )
