"""The table of `experiment=ablation`: python docs/ablation.py multirun/DATE/TIME.

Each option of group `ablation` against `base`, in bits a byte of the validation text. Differences
are taken seed by seed, since runs of one seed see the same text in the same order.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from babygpt_exp.options import CONF
from babygpt_exp.report.comparison import by_seed
from babygpt_exp.report.content import Group, Report
from babygpt_exp.report.runs import read_report
from babygpt_exp.report.statistics import plus_minus, standard_error

BASE = "base"


def table(report: Report) -> str:
    """Markdown, the best option first."""
    groups = {group.varied["ablation"]: group for group in report.groups if group.mean is not None}
    base = groups[BASE]
    lines = ["| option | what | bits a byte | against base | speed |", "|---|---|---|---|---|"]
    for option, group in groups.items():
        assert group.mean is not None
        cells = [
            f"`{option}`",
            describe(option),
            plus_minus(group.mean, group.error, places=4),
            "" if option == BASE else change(base, group),
            f"{speed(group) / speed(base):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def change(base: Group, group: Group) -> str:
    """Mean difference of runs with the same seed, and its standard error."""
    before, after = by_seed(base), by_seed(group)
    changes = [after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]
    if not changes:
        return ""
    sign = "+" if statistics.fmean(changes) > 0 else ""
    return f"{sign}{plus_minus(statistics.fmean(changes), standard_error(changes), places=4)}"


def speed(group: Group) -> float:
    """Tokens a second of a group's runs that are completed."""
    return statistics.median(
        run.summary["tokens_per_s"] for run in group.runs if run.score is not None
    )


def describe(option: str) -> str:
    """The words in the option's file."""
    lines = (CONF / "ablation" / f"{option}.yaml").read_text().splitlines()
    return lines[1].partition(": ")[2]


if __name__ == "__main__":
    print(table(read_report(Path(sys.argv[1]))))
