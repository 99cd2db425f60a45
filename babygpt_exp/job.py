"""A run's place: the folder, the names and what is there already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babygpt_exp.saved import SavedRun

TYPED: list[str] = []
"""What was typed, also in a job of a sweep, which goes by what was made of that."""


@dataclass(frozen=True)
class Job:
    """A run's place: what it was called with, and where it belongs."""

    folder: Path
    """Folder of the run; exists."""
    overrides: list[str]
    """What the user typed."""
    distinct: list[str]
    """Those of them that tell the job from others of its sweep; all without a sweep."""
    run_id: str
    """Name of the run for W&B, unique and readable."""
    sweep: str | None
    """Name of the sweep that the run belongs to."""
    saved: SavedRun | None = None
    """What the folder has of the run already, if it goes on."""

    @property
    def names(self) -> dict[str, Any]:
        """What a run that goes on must know of its beginning, for summary.json."""
        return {"run_id": self.run_id, "sweep": self.sweep, "distinct": self.distinct}
