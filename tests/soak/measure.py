"""Figures: what was measured, what it may be at most, and how a process' memory is read."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Figure:
    """One thing that was measured."""

    phase: str
    """Which phase measured it."""
    name: str
    """What it is; its unit is the name's end."""
    value: Any
    """What was found."""
    bound: Any = None
    """The most it may be, or for what must be equal the value it must have; None is no bound."""
    held: bool | None = None
    """Whether it is within its bound; None without one, or where it was not resolved."""
    note: str = ""
    """What a reader should know of it."""


class Report:
    """Collects figures, and shows each as soon as it is there."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.phase = ""
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {self.phase}: {text}", flush=True)

    def note(self, name: str, value: Any, note: str = "") -> None:
        """A figure without bound."""
        self._add(Figure(self.phase, name, value, note=note))

    def at_most(self, name: str, value: float, bound: float, note: str = "") -> None:
        """A figure with an upper bound."""
        self._add(Figure(self.phase, name, value, bound, value <= bound, note))

    def equal(self, name: str, value: Any, wanted: Any, note: str = "") -> None:
        """A figure that has to have a certain value."""
        self._add(Figure(self.phase, name, value, wanted, value == wanted, note))

    def unresolved(self, name: str, value: float, bound: float, note: str) -> None:
        """A figure of which cannot be said whether it is within its bound."""
        self._add(Figure(self.phase, name, value, bound, None, note))

    @property
    def broken(self) -> list[str]:
        """Figures out of their bounds."""
        return [f"{found.phase}.{found.name}" for found in self.figures if found.held is False]

    def payload(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "held": not self.broken,
            "broken": self.broken,
            "seconds": round(time.monotonic() - self._began, 1),
            "figures": [asdict(figure) for figure in self.figures],
        }

    def _add(self, figure: Figure) -> None:
        self.figures.append(figure)
        words = {True: "held", False: "BROKEN", None: "not resolved"}
        bound = "" if figure.bound is None else f" (bound {figure.bound}: {words[figure.held]})"
        note = f"; {figure.note}" if figure.note else ""
        self.say(f"{figure.name} = {figure.value}{bound}{note}")


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    memory_mb: float
    """Memory of its own, without mapped files."""
    num_files: int
    """Open file descriptors."""
    num_threads: int
    """Its threads."""


def usage(process_id: int) -> Usage:
    """What a process holds now."""
    folder = Path(f"/proc/{process_id}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory_mb = int(fields["RssAnon"].split()[0]) / 1e3
    return Usage(memory_mb, len(os.listdir(folder / "fd")), int(fields["Threads"]))


def settled_usage(process_id: int, num_files: int | None = None) -> Usage:
    """What a process holds once nobody talks to it: two seconds on, or `num_files` are left."""
    time.sleep(2)
    deadline = time.monotonic() + SETTLE_SECONDS
    while num_files is not None and usage(process_id).num_files != num_files:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return usage(process_id)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of a least-squares line through (x, y), and its standard error."""
    num_points = len(points)
    if num_points < 3:
        return math.nan, math.inf
    mean_x = sum(x for x, _ in points) / num_points
    mean_y = sum(y for _, y in points) / num_points
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    found = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in points)
    return found, math.sqrt(rest / (num_points - 2) / spread)


def seconds_of(work: Callable[[], Any]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
