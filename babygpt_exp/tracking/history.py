"""What a run has logged, as metrics.csv and samples.jsonl have it; quick to import."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from babygpt_exp.folder import RunFolder

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
    for row in csv.DictReader(io.StringIO(whole_lines(folder.metrics), newline="")):
        step = row.get("step") or ""
        if None not in row.values() and step.isdecimal() and int(step) <= last_step:
            rows.append({name: row.get(name, "") for name in COLUMNS})
    return History(rows, [s for s in read_samples(folder.samples) if s.step <= last_step])


def read_samples(path: Path) -> list[Sample]:
    """The samples of a samples.jsonl, without what is not whole."""
    samples = []
    for line in whole_lines(path).split("\n"):
        try:
            samples.append(Sample(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return samples


def whole_lines(path: Path) -> str:
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
