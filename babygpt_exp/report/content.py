"""What a report says, before it is a table or a page: runs, best first, and what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["completed", "failed", "interrupted", "running"]
"""How a run ended, or that it still goes on."""

SCORE = "final_val_bpb"
"""What decides which run is best: final bits per byte of the validation text, lower is better."""


@dataclass(frozen=True)
class Run:
    """A run as its folder has it."""

    folder: Path
    """Where it is."""
    number: int | None
    """Number of the job in its sweep; None of a run by itself."""
    name: str
    """What tells it from the others: its varied overrides, or its folder's name."""
    status: Status
    """How it ended."""
    error: str | None
    """Why it did not complete, on one line."""
    seed: int | None
    """Its seed; None if it did not get as far as to say."""
    varied: Mapping[str, str]
    """Values of the keys that differ within the sweep; "" for a key that was not given."""
    summary: Mapping[str, Any]
    """summary.json; empty if there is none. Of a run that has not ended, `steps`, `tokens`,
    `seconds` and `best_val_bpb` are those of its last rows."""
    rows: pd.DataFrame
    """metrics.csv, a column for each of `tracking.history.COLUMNS`; no rows if there is none."""
    samples: list[Mapping[str, Any]]
    """samples.jsonl."""

    @property
    def score(self) -> float | None:
        """Final bits per byte; None of a run that is not completed or has none."""
        value = self.summary.get(SCORE)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        return value if is_number and self.status == "completed" else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    """Their varied overrides without the seed; "all runs" if only the seed varies."""
    varied: Mapping[str, str]
    """The same, by key."""
    runs: list[Run]
    """Its runs, by seed."""
    mean: float | None
    """Mean score of those that are completed; None without any."""
    error: float | None
    """Standard error of the mean; None of less than two."""


@dataclass(frozen=True)
class Difference:
    """Two groups compared, seed by seed."""

    better: str
    """Name of the group with the lower mean."""
    worse: str
    """Name of the other."""
    num_seeds: int
    """Seeds that both have."""
    mean: float
    """Mean of worse minus better over these seeds, bits per byte; at least 0."""
    interval: float | None
    """Half of the 95 % confidence interval of the mean (Student's t); None of one seed."""
    sentence: str
    """In words: "muon beats adamw by 0.081 +- 0.006 bits/byte over 3 seeds"."""
    key: str | None = None
    """The key whose values are compared, all else equal; None of two groups."""
    holds: bool = False
    """Whether 0 is excluded also if all comparisons of the report are taken together (Holm)."""


@dataclass(frozen=True)
class Importance:
    """How much one varied key matters."""

    key: str
    """The key, `optimizer.lr`."""
    share: float
    """Share of the variance of the scores that the key alone explains, 0 to 1."""
    spread: float
    """Mean score of its worst value minus that of its best, bits per byte."""


@dataclass(frozen=True)
class Report:
    """All that a report says."""

    title: str
    """Name of the sweep or the run."""
    folder: Path
    """Where it is."""
    keys: list[str]
    """Keys that vary, in the order in which they were typed."""
    runs: list[Run]
    """Best first; then those that are not completed, failed ones last."""
    groups: list[Group]
    """Best first; one without a sweep."""
    differences: list[Difference]
    """Of the best group to every other, and of groups that differ in one key alone."""
    importances: list[Importance]
    """Most important first; empty where nothing but the seed varies."""
    notes: list[str] = field(default_factory=list)
    """What must be known to read the numbers, a sentence each."""
