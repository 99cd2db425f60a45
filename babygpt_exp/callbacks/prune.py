"""Pruning: a run of a sweep ends early if it is worse than the median of those before it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from babygpt_exp.callbacks.metrics import Metrics
from babygpt_exp.config import Config
from babygpt_exp.folder import RunFolder
from babygpt_exp.pruner import Curve, MedianConfig, RunPruned, median_at
from babygpt_exp.saved import read_summary
from babygpt_exp.tracking.history import numbers, read_history

if TYPE_CHECKING:
    from babygpt_exp.module import GPTModule


class Prune(L.Callback):
    """Ends a run after a validation, with its checkpoint; comes after `Metrics` and `Checkpoints`.

    It is compared with the runs that were complete when it began, so that of jobs which run at the
    same time none is pruned because another one was a second faster.
    """

    def __init__(self, config: Config, pruner: MedianConfig, metrics: Metrics) -> None:
        self.config, self.pruner, self.metrics = config, pruner, metrics
        self.warmup_tokens = (
            config.run.max_tokens // 4 if pruner.warmup_tokens is None else pruner.warmup_tokens
        )
        self.curves: list[Curve] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the others."""
        self.curves = complete_curves(self.metrics.folder.path.parent)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if the best so far is above the median; what is at its end is let be."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        if trainer.global_step >= self.config.run.num_steps or module.tokens <= self.warmup_tokens:
            return
        found = module.ranks.from_first(lambda: self._median(module.tokens))
        if found is not None and self.metrics.best_bits_per_byte > found[0]:
            raise RunPruned(module.tokens, self.metrics.last["val/bpb"], *found)

    def _median(self, tokens: int) -> tuple[float, int] | None:
        """That of the others there, and of how many; None if they are too few."""
        too_few = len(self.curves) < self.pruner.num_startup_runs
        return None if too_few else median_at(self.curves, tokens)


def complete_curves(sweep: Path) -> list[Curve]:
    """The validations of all runs in a sweep's folder that are complete."""
    curves: list[Curve] = []
    for path in sorted(sweep.glob("*/summary.json")):
        folder = RunFolder(path.parent)
        if read_summary(folder).get("status") == "completed":
            rows = [numbers(row) for row in read_history(folder, sys.maxsize).rows]
            validated = [row for row in rows if "val/bpb" in row]
            curves.append([(int(row["tokens"]), row["val/bpb"]) for row in validated])
    return curves
