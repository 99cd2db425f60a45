"""Where the config groups are: folders of conf/, one file an option."""

from __future__ import annotations

import textwrap
from pathlib import Path

_HERE = Path(__file__).resolve().parent
CONF = next((p for p in (_HERE / "conf", _HERE.parent / "conf") if p.is_dir()), _HERE / "conf")
"""The folder of the config groups: inside an installed package, beside it in a checkout."""


def options(group: str) -> list[str]:
    """The options of a config group that ship with the package."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups_text() -> str:
    """Every group and its options, for the help of commands that take them; lines end in time."""
    groups = (path.name for path in sorted(CONF.glob("*/")))
    return "\n".join(folded(f"  {group}: {', '.join(options(group))}") for group in groups)


def folded(line: str, columns: int = 100) -> str:
    """A line on as many as it needs, indented after the first."""
    if len(line) <= columns:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
