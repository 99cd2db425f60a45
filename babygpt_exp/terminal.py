"""What a run says while it lasts: a live line and panels on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from babygpt_exp.config_tree import Branch, plain_lines, rich_tree
from babygpt_exp.tracking.history import Sample


def clock_text(seconds: float) -> str:
    """Seconds as 04:12 or 1:04:12."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


BAR_COLUMNS = 12
"""Width of the progress bar."""

SEPARATOR = " | "
"""Between values on a line."""

LEAST_NEEDED = ("lr ", "wait ")
"""How values begin that a narrow terminal goes without, the least needed first."""


class Progressing:
    """The newest value of each metric, as one line of words."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.row: dict[str, float] = {}

    def update(self, row: Mapping[str, float]) -> None:
        """Take over what a new row has."""
        self.row |= row

    @property
    def step(self) -> int:
        """Steps so far."""
        return int(self.row.get("step", 0))

    @property
    def text(self) -> str:
        """The line, without the step."""
        return SEPARATOR.join(self.parts)

    def fitted(self, columns: int) -> str:
        """The line without what is least needed, where there are only so many columns."""
        parts = self.parts
        for name in LEAST_NEEDED:
            if len(SEPARATOR.join(parts)) > columns:
                parts = [part for part in parts if not part.startswith(name)]
        return SEPARATOR.join(parts)

    @property
    def parts(self) -> list[str]:
        """Each value in words."""
        row, parts = self.row, []
        if "train/loss" in row:
            parts.append(f"loss {row['train/loss']:.3f}")
        if "val/loss" in row:
            parts.append(f"val {row['val/loss']:.3f} = {row['val/bpb']:.3f} bits/byte")
        if "perf/tokens_per_s" in row:
            parts.append(f"{row['perf/tokens_per_s']:,.0f} tok/s")
            parts.append(f"wait {row['perf/data_wait_frac']:.1%}")
            parts.append(f"lr {row['lr']:.1e}")
        if self.step:  # before the first one nothing is known of their speed
            left = (self.num_steps - self.step) * row.get("seconds", 0.0) / self.step
            parts.append(f"{clock_text(left)} left")
        return parts


class Terminal:
    """Where a run reports to people. This one is silent: of the ranks of a run one speaks."""

    def say(self, text: str) -> None:
        """A line about what is going on."""

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """Names and values, before the run and after it."""

    def config(self, tree: Sequence[Branch]) -> None:
        """The config of the run, with what was changed marked."""

    def begin(self, num_steps: int) -> None:
        """Training starts."""

    def row(self, row: Mapping[str, float]) -> None:
        """A logging event."""

    def samples(self, samples: list[Sample]) -> None:
        """A round of samples."""

    def end(self) -> None:
        """Training has ended, however."""


class RichTerminal(Terminal):
    """A live progress bar, and a panel for each sample."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._state = Progressing(1)

    def say(self, text: str) -> None:
        """A dim line."""
        self.console.print(Text(text, style="dim"))

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A table of two columns."""
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, Text(value))
        self.console.print(table)

    def config(self, tree: Sequence[Branch]) -> None:
        """A tree, a line a group."""
        self.console.print(rich_tree(tree, self.console.width))

    def begin(self, num_steps: int) -> None:
        """Show the bar."""
        self._state = Progressing(num_steps)
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=BAR_COLUMNS),
            TextColumn("{task.description}"),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("the first step takes longest", total=num_steps)
        self._progress.start()

    def row(self, row: Mapping[str, float]) -> None:
        """Move the bar."""
        self._state.update(row)
        if self._progress is not None:
            step = f"step {self._state.step}/{self._state.num_steps}"
            room = self.console.width - len(step) - BAR_COLUMNS - 2
            self._progress.update(
                self._task, completed=self._state.step, description=self._state.fitted(room)
            )

    def samples(self, samples: list[Sample]) -> None:
        """A panel each, the prompt dim and what was added bold."""
        for sample in samples:
            text = Text.assemble((sample.prompt, "dim"), (sample.text, "bold"))
            title = f"{sample.kind} sample at {sample.tokens:,} tokens"
            self.console.print(Panel(text, title=title, title_align="left"))

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class PlainTerminal(Terminal):
    """One line an event, at most a hundred for the steps of a run; no escape codes."""

    def __init__(self) -> None:
        self._state = Progressing(1)
        self._every = 1

    def say(self, text: str) -> None:
        """A line."""
        print(text, flush=True)

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A line each."""
        self.say(title)
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            self.say(f"  {name:<{width}}  {value}")

    def config(self, tree: Sequence[Branch]) -> None:
        """A line a group with something changed, and one for the rest."""
        for line in plain_lines(tree):
            self.say(line)

    def begin(self, num_steps: int) -> None:
        """Nothing to show yet."""
        self._state = Progressing(num_steps)
        self._every = max(1, num_steps // 100)

    def row(self, row: Mapping[str, float]) -> None:
        """A line, if it is due or has a validation."""
        self._state.update(row)
        step = self._state.step
        if "val/loss" in row or step % self._every == 0:
            self.say(f"step {step}/{self._state.num_steps} | {self._state.text}")

    def samples(self, samples: list[Sample]) -> None:
        """A paragraph each."""
        for sample in samples:
            self.say(f"{sample.kind} sample at {sample.tokens:,} tokens:")
            self.say(f"    {sample.prompt}[...]{sample.text}".replace("\n", "\n    "))

    def end(self) -> None:
        """Nothing to take away."""


def open_terminal(**console: Any) -> Terminal:
    """The terminal for where standard output goes."""
    if sys.stdout.isatty():
        return RichTerminal(Console(highlight=False, **console))
    return PlainTerminal()
