"""Tables of a report: summary.csv, summary.md, and what a terminal shows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from babygpt_exp.report.comparison import UNIT, short
from babygpt_exp.report.content import Group, Report, Run
from babygpt_exp.report.statistics import plus_minus

FIGURES = (
    "final_val_bpb",
    "best_val_bpb",
    "final_val_loss",
    "final_train_loss",
    "tokens",
    "seconds",
    "tokens_per_s",
    "parameters",
)
"""What summary.csv has of a summary.json."""

SHOWN = {
    "final_val_bpb": (UNIT, "{:.4f}"),
    "best_val_bpb": ("best", "{:.4f}"),
    "final_val_loss": ("loss", "{:.3f}"),
    "tokens": ("tokens", "{:,}"),
    "seconds": ("seconds", "{:,.1f}"),
    "tokens_per_s": ("tokens/s", "{:,.0f}"),
    "parameters": ("parameters", "{:,}"),
}
"""What people see of these: name and format."""


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    head: list[str]
    """Names of the columns."""
    rows: list[list[str]]
    """Cells, as many as there are names."""

    def markdown(self) -> str:
        """As a table of Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        cells = [[cell if cell == "---" else escaped(cell) for cell in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in cells)

    def plain(self) -> str:
        """In columns of equal width."""
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "".join(f"{line.rstrip()}\n" for line in padded)


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.splitlines())


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def csv_text(report: Report) -> str:
    """summary.csv: a row a run, best first."""
    import pandas as pd

    columns = ["rank", "job", "name", "status", *report.keys, *FIGURES, "error", "folder"]
    rows = [
        [
            rank_of(run, place),
            run.number,
            one_line(run.name),
            run.status,
            *(one_line(run.varied[key]) for key in report.keys),
            *(run.summary.get(name) for name in FIGURES),
            run.error,
            run.folder.relative_to(report.folder).as_posix(),
        ]
        for place, run in enumerate(report.runs, 1)
    ]
    text: str = pd.DataFrame(rows, columns=columns, dtype=object).to_csv(
        index=False, lineterminator="\n"
    )
    return text


def rank_of(run: Run, place: int) -> int | None:
    """The place of a run that has a score: such runs come first."""
    return None if run.score is None else place


def markdown(report: Report) -> str:
    """summary.md: runs, groups, differences and what mattered."""
    parts = [f"# {escaped(report.title)}\n", f"{counts(report)}\n", runs_table(report).markdown()]
    if len(report.runs) > len(report.groups):
        parts += ["## Groups\n", groups_table(report).markdown()]
    if report.differences:
        lines = [f"- {escaped(sentence)}\n" for sentence in sentences(report)]
        parts += ["## Differences\n", "".join(lines)]
    if report.importances:
        parts += ["## What mattered\n", importances_table(report).markdown()]
    if report.notes:
        parts += ["## Notes\n", "".join(f"- {escaped(note)}\n" for note in report.notes)]
    return "\n".join(parts)


def counts(report: Report) -> str:
    """How many runs there are and how they ended."""
    found = Counter(run.status for run in report.runs)
    number = len(report.runs)
    each = ", ".join(f"{count} {status}" for status, count in found.items())
    return f"{number} run{'s' if number > 1 else ''}: {each}"


def sentences(report: Report) -> list[str]:
    """The differences in words; of several those are marked that hold among all."""
    several = sum(difference.interval is not None for difference in report.differences) > 1
    return [
        f"{difference.sentence} *" if several and difference.holds else difference.sentence
        for difference in report.differences
    ]


def runs_table(report: Report, figures: Sequence[str] = tuple(SHOWN)) -> Table:
    """Best run first; what did not complete says why."""
    is_sweep = any(run.number is not None for run in report.runs)
    head = ["rank", "job"] if is_sweep else ["run"]
    head += [*report.keys, *(SHOWN[name][0] for name in figures), "status"]
    rows = []
    for place, run in enumerate(report.runs, 1):
        first = [shown(rank_of(run, place)), run.folder.name] if is_sweep else [run.name]
        values = [one_line(short(run.varied[key])) for key in report.keys]
        numbers = [shown(run.summary.get(name), SHOWN[name][1]) for name in figures]
        status = f"{run.status}: {run.error}" if run.error else run.status
        rows.append([*first, *values, *numbers, status])
    return Table(head, rows)


def shown(value: Any, form: str = "{}") -> str:
    """A number in its format; nothing of what is not known."""
    is_known = isinstance(value, int | float) and math.isfinite(value)
    return form.format(value) if is_known else ""


def groups_table(report: Report) -> Table:
    """Mean of each group, best first."""
    keys = [key for key in report.keys if key != "seed"]
    head = [*(keys or ["group"]), "runs", f"{UNIT}, mean +- standard error"]
    return Table(head, [group_row(group, keys) for group in report.groups])


def group_row(group: Group, keys: Sequence[str]) -> list[str]:
    """Cells of a group."""
    num_scored = sum(run.score is not None for run in group.runs)
    number = len(group.runs)
    runs = str(number) if num_scored == number else f"{num_scored} of {number}"
    mean = "" if group.mean is None else plus_minus(group.mean, group.error, places=4)
    return [*([one_line(short(group.varied[key])) for key in keys] or [group.name]), runs, mean]


def importances_table(report: Report) -> Table:
    """What mattered most first."""
    head = ["key", "share of the variance", f"best to worst value, {UNIT}"]
    rows = [
        [importance.key, f"{importance.share:.1%}", f"{importance.spread:.4f}"]
        for importance in report.importances
    ]
    return Table(head, rows)
