"""Ending a run: at its budget, or when somebody asks, without losing what it has done."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

import lightning as L

from babygpt_exp.callbacks.checkpoints import Checkpoints
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.errors import RunInterrupted


class StopSignals:
    """A context in which Ctrl-C and SIGTERM end a run: the first after the step, the second now.

    Before the first step has ended, the first ends it at once too. What comes out of the
    context is a RunInterrupted that names the signal.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.training = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Lightning turns a KeyboardInterrupt into a SystemExit.
        if isinstance(error, KeyboardInterrupt | SystemExit) and self.requested is not None:
            raise RunInterrupted(f"stopped by {self.requested.name}", self.requested) from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.requested is None
        self.requested = signal.Signals(number)
        if not (first and self.training):
            raise KeyboardInterrupt
        print("\nstopping after this step; again stops at once", file=sys.stderr, flush=True)


class Stop(L.Callback):
    """Ends the run at its budget or on a signal; comes last, when all else of a step is done."""

    def __init__(self, config: Config, signals: StopSignals, checkpoints: Checkpoints) -> None:
        self.config, self.signals, self.checkpoints = config, signals, checkpoints

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Look after each step."""
        if batch.next is None:
            return
        self.signals.training = True
        if self.signals.requested is not None:
            self.checkpoints.save_last(trainer, pl_module)
            raise RunInterrupted(
                f"stopped by {self.signals.requested.name} after step {trainer.global_step}, "
                f"saved in {self.checkpoints.folder.last_checkpoint}",
                self.signals.requested,
            )
        if trainer.global_step >= self.config.run.num_steps:
            trainer.should_stop = True  # Lightning validates once more, then ends
