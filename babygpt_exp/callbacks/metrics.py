"""Measuring a run: one row a logging event, to every logger and to the terminal."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from babygpt_exp.config import Config
from babygpt_exp.curve import training_curve
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.errors import UserError
from babygpt_exp.flops import utilization
from babygpt_exp.folder import RunFolder, write_whole
from babygpt_exp.terminal import Terminal
from babygpt_exp.tracking.history import History, numbers

if TYPE_CHECKING:
    from babygpt_exp.data.module import StreamDataModule
    from babygpt_exp.module import GPTModule


class TrainingDiverged(UserError):
    """A loss that is not finite."""


class Clock:
    """Seconds of a run, and of the training in it alone."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.paused_seconds = 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is spent on something else than training."""
        start = time.perf_counter()
        yield
        self.paused_seconds += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self.start

    @property
    def training_seconds(self) -> float:
        """Wall time without the pauses."""
        return self.seconds - self.paused_seconds


def peak_memory_mb(process_id: int | str = "self") -> float:
    """Largest resident memory of a process so far, in MB of 10^6 bytes.

    Linux says so in a file, of any process; its getrusage may count what the parent had before
    this process was started, so that is asked only where there is no such file.
    """
    status = Path(f"/proc/{process_id}/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def finite(number: float | None) -> float | None:
    """The number, or None where there is none: JSON has no NaN."""
    return number if number is not None and math.isfinite(number) else None


def median(values: list[float]) -> float | None:
    """Over the logged intervals, so that compiling does not count."""
    return statistics.median(values) if values else None


class Metrics(L.Callback):
    """Logs training loss, speed and waiting each interval, and every validation.

    Who knows the model sets `parameters` and `flops_per_token`, who knows the machine
    `peak_flops`, its FLOP/s; without them there is no utilization. Ranks other than the first
    measure too, since losses are of all, and have no logger to tell. `step` and `tokens` are of the
    newest whole step, logged or not.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        clock: Clock,
        terminal: Terminal,
        is_first: bool = True,
    ) -> None:
        self.config, self.folder, self.clock, self.terminal = config, folder, clock, terminal
        self.is_first = is_first
        self.interval = config.run.interval_steps(config.run.log_every_tokens, parts=1000)
        self.train: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self.best_bits_per_byte = math.inf
        self.initial_loss: float | None = None
        self.parameters = 0
        self.flops_per_token = 0.0
        self.peak_flops: float | None = None
        self.last: dict[str, float] = {}
        self.step, self.tokens = 0, 0
        self._speeds: list[float] = []
        self._utilizations: list[float] = []
        self._mark = (0, 0.0, 0.0)

    def go_on(self, history: History, step: int, tokens: int) -> None:
        """Take over what the run has measured before, up to a step and its tokens."""
        self.step, self.tokens = step, tokens
        for row in map(numbers, history.rows):
            self.last.update(row)
            position = int(row["tokens"])
            if "train/loss" in row:
                self.train.append((position, row["train/loss"]))
                self._speeds.append(row["perf/tokens_per_s"])
            if "perf/mfu" in row:
                self._utilizations.append(row["perf/mfu"])
            if "val/loss" in row:
                self._keep_validation(position, row["val/loss"], row["val/bpb"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        self._set_mark(module, trainer.datamodule)  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Ask for the gradient's norm where the step will be logged."""
        pl_module.wants_grad_norm = self._due(trainer.global_step + 1)  # type: ignore[assignment]

    def _due(self, step: int) -> bool:
        return self.config.run.is_due(step, self.interval)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Count a step that is whole, and log a row if it is due."""
        if batch.next is None:
            return
        module: GPTModule = pl_module  # type: ignore[assignment]
        self.step, self.tokens = trainer.global_step, module.tokens
        if not self._due(self.step):
            return
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        tokens, seconds, waited = self._mark
        elapsed = max(1e-9, self.clock.training_seconds - seconds)
        loss = module.take_loss()
        rate = module.learning_rate_multiplier(trainer.global_step - 1)
        speed = (module.tokens - tokens) / elapsed
        row = {
            "train/loss": loss,
            "lr": self.config.optimizer.lr * rate,
            "perf/tokens_per_s": speed,
            "perf/data_wait_frac": (data.waited_seconds - waited) / elapsed,
            "perf/memory_mb": peak_memory_mb(),
            "perf/stream_reconnects": float(data.reconnects),
        }
        if module.grad_norm is not None:
            row["grad_norm"] = float(module.grad_norm)
        used = utilization(self.flops_per_token, speed, self.peak_flops)
        if used is not None:
            row["perf/mfu"] = used
            self._utilizations.append(used)
        self._log(trainer, module, row)
        if not math.isfinite(loss):
            raise TrainingDiverged(self._advice(trainer.global_step))
        self.train.append((module.tokens, loss))
        self._speeds.append(speed)
        self._set_mark(module, data)

    def _advice(self, step: int) -> str:
        last = self.folder.last_checkpoint
        saved = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet"
        return f"the loss is not finite at step {step}; {saved}; try a lower optimizer.lr"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of training."""
        self._pause = self.clock.pause()
        self._pause.__enter__()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation."""
        self._pause.__exit__(None, None, None)
        module: GPTModule = pl_module  # type: ignore[assignment]
        result = module.validation
        assert result is not None
        row = {"val/loss": result.loss, "val/bpb": result.bits_per_byte}
        self._log(trainer, module, row)
        self._keep_validation(module.tokens, result.loss, result.bits_per_byte)
        self.draw_curve()

    def _keep_validation(self, tokens: int, loss: float, bits_per_byte: float) -> None:
        self.validation.append((tokens, loss))
        if tokens:
            self.best_bits_per_byte = min(self.best_bits_per_byte, bits_per_byte)
        else:  # the weights of another run, no merit of this one
            self.initial_loss = loss

    def draw_curve(self) -> None:
        """Write training_curve.svg anew."""
        if not self.is_first:
            return
        name = f"{self.config.arch.name} {self.parameters / 1e6:.1f} M, seed {self.config.seed}"
        write_whole(self.folder.curve, training_curve(name, self.train, self.validation))

    def summary(self) -> dict[str, Any]:
        """What summary.json has of the measurements; None where there is none."""
        best = self.best_bits_per_byte
        initial = {} if self.initial_loss is None else {"initial_val_loss": self.initial_loss}
        return {
            **initial,
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.clock.seconds, 3),
            "final_train_loss": finite(self.last.get("train/loss")),
            "final_val_loss": finite(self.last.get("val/loss")),
            "final_val_bpb": finite(self.last.get("val/bpb")),
            "best_val_bpb": finite(best),
            "tokens_per_s": median(self._speeds),
            "mfu": median(self._utilizations),
            "flops_per_token": self.flops_per_token or None,
            "parameters": self.parameters,
            "tokens_per_parameter": self.tokens / self.parameters if self.parameters else None,
        }

    def _set_mark(self, module: GPTModule, data: StreamDataModule) -> None:
        self._mark = (module.tokens, self.clock.training_seconds, data.waited_seconds)

    def _log(self, trainer: L.Trainer, module: GPTModule, row: dict[str, float]) -> None:
        row = {
            "step": trainer.global_step,
            "tokens": module.tokens,
            "seconds": round(self.clock.seconds, 3),
            **row,
        }
        self.last.update(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        self.terminal.row(row)
