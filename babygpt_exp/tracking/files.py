"""metrics.csv and samples.jsonl as a Lightning logger: always on, append-only."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers.logger import Logger

from babygpt_exp.folder import RunFolder, append_whole, write_whole
from babygpt_exp.tracking.history import History, Sample, csv_text, jsonl_text


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
