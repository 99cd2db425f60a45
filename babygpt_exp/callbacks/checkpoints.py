"""Checkpoints: `last.ckpt` each interval, `best.ckpt` at the lowest bits a byte."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from babygpt_exp.callbacks.metrics import Clock
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.errors import StreamLostError
from babygpt_exp.folder import RunFolder

if TYPE_CHECKING:
    from babygpt_exp.module import GPTModule


class Checkpoints(L.Callback):
    """Writes whole files by rename, and none of a model whose loss is not finite."""

    def __init__(self, config: Config, folder: RunFolder, clock: Clock) -> None:
        self.config, self.folder, self.clock = config, folder, clock
        self.interval = config.run.interval_steps(config.run.checkpoint_every_tokens, parts=8)
        self.best = math.inf
        self._saved_step = -1
        self._step_is_whole = False

    def state_dict(self) -> dict[str, Any]:
        """What decides the next best."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.best = state_dict["best"]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Save `last.ckpt` if the step is due."""
        self._step_is_whole = batch.next is not None
        if self._step_is_whole and self.config.run.is_due(trainer.global_step, self.interval):
            self.save_last(trainer, pl_module)

    def save_last(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `last.ckpt` now, unless the loss is not finite."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        if self._saved_step != trainer.global_step and module.is_finite():
            with self.clock.pause():
                save(trainer, self.folder.last_checkpoint)
            self._saved_step = trainer.global_step

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save `last.ckpt` if no more data come, unless a step has been computed in part."""
        if isinstance(exception, StreamLostError) and self._step_is_whole:
            self.save_last(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `best.ckpt` if it is better."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        assert module.validation is not None
        if not module.validation.bits_per_byte < self.best:
            return
        self.best = module.validation.bits_per_byte
        with self.clock.pause():
            if self._saved_step == trainer.global_step:
                copy(self.folder.last_checkpoint, self.folder.best_checkpoint)
            else:
                save(trainer, self.folder.best_checkpoint)


def save(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint whole: beside its place, to the disk, then by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        trainer.save_checkpoint(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def copy(source: Path, path: Path) -> None:
    """The same file under a second name: a link where the disk can, else a copy."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(source, unfinished)
    except OSError:
        shutil.copyfile(source, unfinished)
    os.replace(unfinished, path)
