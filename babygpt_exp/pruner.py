"""Group `pruner`: whether a run of a sweep that is worse than the others at its point is stopped.

The median rule (Golovin et al., Google Vizier, KDD 2017, section 3.2.2). It needs no server and no
memory: the curves of the other runs are in the sweep's folder.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babygpt_exp.errors import RunInterrupted

Curve = Sequence[tuple[int, float]]
"""Validations of a run: tokens and bits a byte, by tokens."""


@dataclass
class PrunerConfig:
    """`pruner=none`: every run goes on to its end."""

    name: str
    """The option of group `pruner`."""


@dataclass
class MedianConfig(PrunerConfig):
    """`pruner=median`: the best validation of a run so far is compared with those of the others."""

    num_startup_runs: int
    """Runs that must be complete before one is stopped; the median of few says little."""
    warmup_tokens: int | None
    """Tokens up to which no run is stopped: early curves cross. Null is a quarter of the run."""

    def __post_init__(self) -> None:
        problems = [
            f"pruner.{name}={value} must be at least {least}"
            for name, value, least in (
                ("num_startup_runs", self.num_startup_runs, 1),
                ("warmup_tokens", self.warmup_tokens, 0),
            )
            if value is not None and value < least
        ]
        if problems:
            raise ValueError("; ".join(problems))


PRUNERS: dict[str, type[PrunerConfig]] = {"none": PrunerConfig, "median": MedianConfig}
"""The dataclass of each option of group `pruner`."""

PRUNED = "pruned at "
"""How the error of a pruned run begins in summary.json."""


class RunPruned(RunInterrupted):
    """A run that was stopped because others were better; to a sweep it is no failure."""

    def __init__(self, tokens: int, bits_per_byte: float, median: float, num_runs: int) -> None:
        super().__init__(
            f"{PRUNED}{tokens:,} tokens: val/bpb {bits_per_byte:.4f}, "
            f"median of {num_runs} runs {median:.4f}"
        )
        self.exit_code = 0
        self.bits_per_byte = bits_per_byte


class PrunedValue(float):
    """What a pruned run returns: bits a byte where it was stopped, not to be called the best."""


def is_pruned(summary: Mapping[str, Any]) -> bool:
    """Whether a summary.json is that of a run that was pruned, which is not to go on by itself."""
    return str(summary.get("error")).startswith(PRUNED)


def value_at(curve: Curve, tokens: int) -> float | None:
    """Bits a byte of a run at some tokens, on a line between its validations; None beyond them.

    Runs with another batch or another interval of evaluation are seen at other tokens. Curves sag
    between two points, so that the line is rather too high, and prunes less.
    """
    place = bisect.bisect_left(curve, tokens, key=lambda point: point[0])
    if place == len(curve):
        return None
    right, above = curve[place]
    if right == tokens:
        return above
    if place == 0:
        return None
    left, below = curve[place - 1]
    return below + (above - below) * (tokens - left) / (right - left)


def median_at(curves: Sequence[Curve], tokens: int) -> tuple[float, int] | None:
    """Median of the runs that have been validated about there, and how many; None if none has."""
    values = [value for curve in curves if (value := value_at(curve, tokens)) is not None]
    return (statistics.median(values), len(values)) if values else None
