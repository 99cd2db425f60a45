"""Where curves and samples go: files of the run folder, and Weights & Biases."""

from __future__ import annotations

from typing import Any, Protocol

from babygpt_exp.tracking.history import History, Sample


class RunLogger(Protocol):
    """What a run asks of a logger; each is a Lightning logger too."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """A row of metrics, by the names of `files.COLUMNS`."""

    def log_samples(self, samples: list[Sample]) -> None:
        """A round of samples."""

    def go_on(self, history: History) -> None:
        """The run goes on after `history`; comes before anything else is logged."""

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """The run has ended, and its process is about to, with this exit status; 0 is well."""
