"""Going on: what was loaded from a checkpoint is put back to the step of that checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

from babygpt_exp.callbacks.checkpoints import Checkpoints
from babygpt_exp.callbacks.metrics import Metrics
from babygpt_exp.callbacks.samples import Samples
from babygpt_exp.config import Config
from babygpt_exp.record import Record
from babygpt_exp.saved import SavedRun
from babygpt_exp.tracking.history import History, read_history

if TYPE_CHECKING:
    from babygpt_exp.module import GPTModule


class Resume(L.Callback):
    """Puts files, counters and schedule back to a step, and does what that step still lacks.

    Only here, after all that could be refused, is the run's folder changed.
    """

    def __init__(
        self,
        config: Config,
        record: Record,
        saved: SavedRun,
        metrics: Metrics,
        samples: Samples,
        checkpoints: Checkpoints,
    ) -> None:
        self.config, self.record, self.saved = config, record, saved
        self.metrics, self.samples, self.checkpoints = metrics, samples, checkpoints

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave Lightning's loops as they are: they count batches of the micro-batch that was,
        and would leave out a validation that was cut off."""
        del checkpoint["loops"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything is loaded, the first batch is there."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        saved, folder = self.saved, self.record.folder
        history = module.ranks.from_first(
            lambda: without_torn_round(read_history(folder, saved.step), saved)
        )
        self.record.begin()
        if module.ranks.is_first:
            folder.remove_unfinished()
        for logger in trainer.loggers:
            logger.go_on(history)  # type: ignore[attr-defined]
        self.metrics.go_on(history, saved.step, module.tokens)
        if saved.checkpoint is None:
            return
        set_step(trainer, saved.step)
        set_learning_rates(trainer, module, saved.step)
        self.checkpoints.go_on(saved.checkpoint, saved.step)
        self._catch_up(trainer, module, history)
        if saved.step >= self.config.run.num_steps:
            trainer.should_stop = True

    def _catch_up(self, trainer: L.Trainer, module: GPTModule, history: History) -> None:
        """Samples and validation of the step, if they are due and were cut off."""
        run, step = self.config.run, self.saved.step
        if not any(sample.step == step for sample in history.samples):
            self.samples.draw_if_due(trainer, module)
        done = [row["val/bpb"] for row in history.rows if row["step"] == str(step)]
        if done and done[-1]:  # the validation is the last row of a step
            self.checkpoints.keep_if_best(trainer, float(done[-1]))
            self.metrics.draw_curve()
        elif run.is_due(step, run.interval_steps(run.eval_every_tokens, parts=8)):
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


def without_torn_round(history: History, saved: SavedRun) -> History:
    """The history without samples of the checkpoint's step, if not all of them are there.

    They are logged after it, so that a loss of power can leave some lines of a round.
    """
    num_samples = len(saved.config["run"]["prompts"]) + saved.config["sampling"]["num_auto"]
    before = [sample for sample in history.samples if sample.step < saved.step]
    whole = len(history.samples) - len(before) >= num_samples
    return history if whole else History(history.rows, before)


def set_step(trainer: L.Trainer, step: int) -> None:
    """Make Lightning count on from a step, in batches as they are now."""
    loop = trainer.fit_loop.epoch_loop
    loop.batch_progress.total.increment_by(step * trainer.accumulate_grad_batches)
    loop.automatic_optimization.optim_progress.optimizer.step.total.increment_by(step)


def set_learning_rates(trainer: L.Trainer, module: GPTModule, step: int) -> None:
    """The rates of the next step, by the schedule of the config: its budget may be another."""
    (optimizer,) = trainer.optimizers
    (schedule,) = trainer.lr_scheduler_configs
    rate = module.learning_rate_multiplier(step)
    for group, peak in zip(optimizer.param_groups, schedule.scheduler.base_lrs, strict=True):
        group["lr"] = peak * rate
