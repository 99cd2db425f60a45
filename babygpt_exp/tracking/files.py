"""metrics.csv and samples.jsonl as a Lightning logger: always on, append-only."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning.pytorch.loggers.logger import Logger

from babygpt_exp.folder import RunFolder, append_whole

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
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if not self.folder.metrics.exists():
            writer.writerow(COLUMNS)
        writer.writerow([metrics.get(column, "") for column in COLUMNS])
        append_whole(self.folder.metrics, line.getvalue())

    def log_samples(self, samples: list[Sample]) -> None:
        """Append a line a sample."""
        lines = [json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples]
        append_whole(self.folder.samples, "".join(lines))

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Nothing: every row is on disk already."""
