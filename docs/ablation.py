"""The table of `experiment=ablation`: python docs/ablation.py multirun/DATE/TIME.

Each option of group `ablation` against `base`, in bits a byte of the validation text. Differences
are taken seed by seed, since runs of one seed see the same text in the same order.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from babygpt_exp.options import CONF

BASE = "base"


def read(sweep: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Summaries of completed runs by option and seed."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for path in sorted(sweep.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        choices = dict(override.split("=", 1) for override in summary["overrides"])
        if summary["status"] == "completed" and "ablation" in choices:
            found[choices["ablation"]][summary["seed"]] = summary
    return found


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean, and its standard error; that of a single value is not known."""
    if len(values) < 2:
        return statistics.mean(values), float("nan")
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def table(runs: dict[str, dict[int, dict[str, float]]]) -> str:
    """Markdown, the best option first."""
    base = runs[BASE]
    rows = []
    for option, by_seed in runs.items():
        bits, error = mean_and_error([s["final_val_bpb"] for s in by_seed.values()])
        shared = sorted(by_seed.keys() & base.keys())
        change, change_error = mean_and_error(
            [by_seed[seed]["final_val_bpb"] - base[seed]["final_val_bpb"] for seed in shared]
        )
        speed = statistics.median(s["tokens_per_s"] for s in by_seed.values())
        relative = speed / statistics.median(s["tokens_per_s"] for s in base.values())
        difference = "" if option == BASE else f"{change:+.4f} +- {change_error:.4f}"
        cells = [
            f"`{option}`",
            describe(option),
            f"{bits:.4f} +- {error:.4f}",
            difference,
            f"{relative:.2f}",
        ]
        rows.append((bits, f"| {' | '.join(cells)} |"))
    head = "| option | what | bits a byte | against base | speed |\n|---|---|---|---|---|"
    return "\n".join([head, *(row for _, row in sorted(rows))])


def describe(option: str) -> str:
    """The words in the option's file."""
    lines = (CONF / "ablation" / f"{option}.yaml").read_text().splitlines()
    return lines[1].partition(": ")[2]


if __name__ == "__main__":
    print(table(read(Path(sys.argv[1]))))
