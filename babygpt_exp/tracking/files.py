"""metrics.csv and samples.jsonl as a Lightning logger: always on, append-only."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers.logger import Logger

from babygpt_exp.folder import RunFolder, append_whole, write_whole

COLUMNS = (
    "step",
    "tokens",
    "seconds",
    "train/loss",
    "val/loss",
    "val/bpb",
    "lr",
    "grad_norm",
    "perf/tokens_per_s",
    "perf/data_wait_frac",
    "perf/mfu",
    "perf/memory_mb",
    "perf/stream_reconnects",
)
"""Columns of metrics.csv, and the names of the metrics everywhere."""


@dataclass(frozen=True)
class Sample:
    """A text that the model continued."""

    step: int
    """Optimizer steps so far."""
    tokens: int
    """Tokens trained on so far."""
    kind: Literal["manual", "auto"]
    """From a prompt of the config, or from validation text."""
    prompt: str
    """What was given."""
    text: str
    """What the model added."""


@dataclass(frozen=True)
class History:
    """What a run has logged up to a step, in the order in which it did."""

    rows: list[dict[str, str]]
    """Rows of metrics.csv, as text."""
    samples: list[Sample]
    """Lines of samples.jsonl."""


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a row of metrics.csv; what was not measured is left out."""
    return {
        name: int(text) if text.isdecimal() else float(text) for name, text in row.items() if text
    }


def read_history(folder: RunFolder, last_step: int) -> History:
    """What the files have up to `last_step`, its validation included.

    A row that is not whole was written as the process or the power went, after that step.
    """
    rows = []
    for row in csv.DictReader(io.StringIO(_whole_lines(folder.metrics), newline="")):
        if None not in row.values() and row["step"].isdecimal() and int(row["step"]) <= last_step:
            rows.append({name: row.get(name, "") for name in COLUMNS})
    samples = []
    for line in _whole_lines(folder.samples).split("\n"):
        try:
            sample = Sample(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if sample.step <= last_step:
            samples.append(sample)
    return History(rows, samples)


def _whole_lines(path: Path) -> str:
    """The text of a file up to its last line break; none of a file that does not exist."""
    if not path.exists():
        return ""
    text = path.read_bytes().decode(errors="replace")
    return text[: text.rfind("\n") + 1]


def csv_text(rows: Iterable[Mapping[str, Any]], *, header: bool) -> str:
    """Rows as lines of metrics.csv; what was not measured stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def jsonl_text(samples: Iterable[Sample]) -> str:
    """Samples as lines of samples.jsonl."""
    return "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)


class FileLogger(Logger):
    """Rows of metrics to metrics.csv, samples to samples.jsonl."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        """Lightning asks."""
        return "files"

    @property
    def version(self) -> str:
        """Lightning asks."""
        return self.folder.path.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row; what was not measured stays empty."""
        text = csv_text([metrics], header=not self.folder.metrics.exists())
        append_whole(self.folder.metrics, text)

    def log_samples(self, samples: list[Sample]) -> None:
        """Append a line a sample."""
        append_whole(self.folder.samples, jsonl_text(samples))

    def go_on(self, history: History) -> None:
        """Take away what the files have beyond `history`: it will come again."""
        write_whole(self.folder.metrics, csv_text(history.rows, header=True))
        write_whole(self.folder.samples, jsonl_text(history.samples))

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Nothing: every row is on disk already."""
