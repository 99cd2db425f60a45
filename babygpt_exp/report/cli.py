"""The command line of the report: it is written into its folder, and its tables are shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from babygpt_exp.command import errors_in_a_line
from babygpt_exp.report.content import Report
from babygpt_exp.report.runs import is_run
from babygpt_exp.report.tables import (
    Table,
    counts,
    groups_table,
    importances_table,
    runs_table,
    sentences,
)
from streamer.cli import Parser

NUM_BEST = 20
"""Completed runs to show; the files have all."""

NUM_OTHERS = 10
"""Other runs to show."""

NUM_SENTENCES = 15
"""Differences to show."""

FIGURES = ("final_val_bpb", "best_val_bpb", "tokens", "seconds")
"""What to show of a summary, so that it fits on a line."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-report` and of `python -m babygpt_exp.report`."""
    folder = build_parser().parse_args(argv).folder
    with errors_in_a_line():
        from babygpt_exp.report.write import write_and_read

        page, report = write_and_read(folder, say)
        show(report)
        print(f"page    {page}")
        if not is_run(folder):
            print(f"tables  {folder / 'summary.md'}, {folder / 'summary.csv'}")


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.report`."""
    parser = Parser(
        prog="python -m babygpt_exp.report",
        description="Make the report of a run or of a sweep, again, also while it goes on:\n"
        "report.html in its folder, for a sweep summary.csv and summary.md too.",
        examples=(
            "python -m babygpt_exp.report outputs/DATE/TIME",
            "python -m babygpt_exp.report multirun/DATE/TIME",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="folder of a run (outputs/DATE/TIME), of a sweep (multirun/DATE/TIME) or of a "
        "day's runs (outputs/DATE)",
    )
    return parser


def say(text: str) -> None:
    """A line about what is going on."""
    print(text, file=sys.stderr)


def show(report: Report) -> None:
    """The tables and sentences on standard output."""
    print(f"{report.title}: {counts(report)}\n")
    show_table(shown_runs(report))
    if len(report.runs) > len(report.groups):
        show_table(groups_table(report))
    if report.importances:
        show_table(importances_table(report))
    lines = sentences(report)
    if len(lines) > NUM_SENTENCES:
        lines[NUM_SENTENCES:] = [f"{len(lines) - NUM_SENTENCES} more comparisons are in summary.md"]
    for line in [*lines, *report.notes]:
        print(line)
    if lines or report.notes:
        print()


def shown_runs(report: Report) -> Table:
    """The best runs, and those that are not completed."""
    table = runs_table(report, FIGURES)
    num_best = sum(run.status == "completed" for run in report.runs)
    best, others = table.rows[:num_best], table.rows[num_best:]
    for row in best:
        row[-1] = ""  # what has a rank is completed
    rows = []
    for part, limit in ((best, NUM_BEST), (others, NUM_OTHERS)):
        rows += part[:limit]
        if len(part) > limit:
            rows.append([f"{len(part) - limit} more", *[""] * (len(table.head) - 1)])
    return Table(table.head, rows)


def show_table(table: Table) -> None:
    """A table, with lines and colours on a terminal."""
    if not sys.stdout.isatty():
        print(table.plain())
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(box=None, header_style="cyan", padding=(0, 2, 0, 0))
    for name in table.head:
        is_last = name == table.head[-1]
        rich.add_column(Text(name), no_wrap=not is_last, overflow="fold", min_width=len(name))
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(rich)
    print()
