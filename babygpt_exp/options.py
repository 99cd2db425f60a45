"""Where the config groups are: folders of conf/, one file an option."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
CONF = next((p for p in (_HERE / "conf", _HERE.parent / "conf") if p.is_dir()), _HERE / "conf")
"""The folder of the config groups: inside an installed package, beside it in a checkout."""


def options(group: str) -> list[str]:
    """The options of a config group that ship with the package."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
