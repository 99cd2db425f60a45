"""Checkpoints: `last.ckpt` each interval, `best.ckpt` at the lowest bits a byte."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from torch import Tensor

from babygpt_exp.callbacks.metrics import Clock
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.errors import RunInterrupted, StreamLostError
from babygpt_exp.folder import RunFolder, copy_whole, sync
from babygpt_exp.parallel.ranks import Ranks

if TYPE_CHECKING:
    from babygpt_exp.data.module import StreamDataModule
    from babygpt_exp.module import GPTModule


class Checkpoints(L.Callback):
    """Writes whole files by rename, and none of a model whose loss is not finite.

    A checkpoint is the end of a step: its loss is logged, its samples and validation come after.
    `previous.ckpt` is the `last.ckpt` before, for a disk that damages the newest. All ranks save
    together, and the first one writes.
    """

    def __init__(
        self, config: Config, folder: RunFolder, clock: Clock, ranks: Ranks | None = None
    ) -> None:
        self.config, self.folder, self.clock = config, folder, clock
        self.ranks = ranks or Ranks()
        self.interval = config.run.interval_steps(config.run.checkpoint_every_tokens, parts=8)
        self.best = math.inf
        self._saved_step = -1
        self._counters: tuple[int, Tensor, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What decides the next best, and the time so far."""
        return {
            "best": self.best,
            "seconds": self.clock.seconds,
            "paused_seconds": self.clock.paused_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.best = state_dict["best"]
        self.clock.start = time.perf_counter() - state_dict["seconds"]
        self.clock.paused_seconds = state_dict["paused_seconds"]

    def go_on(self, checkpoint: Path, step: int) -> None:
        """Make the checkpoint that the run goes on from its last one, also if that was damaged."""
        if checkpoint != self.folder.last_checkpoint and self.ranks.is_first:
            copy_whole(checkpoint, self.folder.last_checkpoint)
        self._saved_step = step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Save `last.ckpt` if the step is due."""
        if batch.next is None:
            return
        module: GPTModule = pl_module  # type: ignore[assignment]
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._counters, data.cursor = module.counters, batch.next
        if self.config.run.is_due(trainer.global_step, self.interval):
            self.save_last(trainer, pl_module)

    def save_last(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `last.ckpt` now, unless the loss is not finite.

        Of a step that has been computed in part nothing is saved: its gradients are not, and
        no weight has changed.
        """
        module: GPTModule = pl_module  # type: ignore[assignment]
        if self._counters is None or self._saved_step == trainer.global_step:
            return
        module.counters = self._counters
        if module.is_finite():
            with self.clock.pause():
                self._save(trainer, self.folder.last_checkpoint)
            self._saved_step = trainer.global_step

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save `last.ckpt` if no more data come, or if somebody asks to stop; of several ranks only
        the latter comes to all at the same step."""
        lost = isinstance(exception, StreamLostError) and self.ranks.world == 1
        if lost or isinstance(exception, RunInterrupted):
            self.save_last(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `best.ckpt` if it is better."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        assert module.validation is not None
        self.keep_if_best(trainer, module.validation.bits_per_byte)

    def keep_if_best(self, trainer: L.Trainer, bits_per_byte: float) -> None:
        """Save `best.ckpt` if no validation before was as good; before the first step there is
        nothing to save."""
        if not trainer.global_step or not bits_per_byte < self.best:
            return
        self.best = bits_per_byte
        with self.clock.pause():
            if self._saved_step != trainer.global_step:
                self._save(trainer, self.folder.best_checkpoint)
            elif self.ranks.is_first:
                copy_whole(self.folder.last_checkpoint, self.folder.best_checkpoint)

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        """Write a checkpoint whole: beside its place, to the disk, then by rename.

        What was logged so far reaches the disk before it. torch puts a CRC-32 of each part into it.
        """
        unfinished = path.with_name(f".{path.name}.unfinished")
        if not self.ranks.is_first:
            trainer.save_checkpoint(unfinished)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folder.sync_rows()
        try:
            trainer.save_checkpoint(unfinished)
            sync(unfinished)
            if path == self.folder.last_checkpoint and path.exists():
                copy_whole(path, self.folder.previous_checkpoint)
            os.replace(unfinished, path)
            sync(path.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
