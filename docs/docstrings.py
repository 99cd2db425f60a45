"""Docstrings are plain text with `code`, lists and tables, and stand so in the reference.

Signs that Markdown would take for emphasis or HTML, as in 2**64, <u2 and num_ids, are escaped.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

CODE = re.compile(r"(`[^`]*`)")
SIGNS = re.compile(r"([*_\[\]{}])")


def escaped(text: str) -> str:
    """Text whose signs are themselves; code in backquotes and indented lines are left alone."""
    blocks = re.split(r"((?:^(?: {4}|\t).*\n?)+)", text, flags=re.MULTILINE)
    for number, block in enumerate(blocks):
        if number % 2 == 0:
            parts = CODE.split(block)
            parts[::2] = [SIGNS.sub(r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
            blocks[number] = "".join(parts)
    return "".join(blocks)


class Plain(Extension):
    """Escapes the docstrings that griffe finds."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)
