"""Ending a run: at its budget, or when somebody asks, without losing what it has done."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import lightning as L
from torch import Tensor

from babygpt_exp.callbacks.checkpoints import Checkpoints
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.errors import RunInterrupted
from babygpt_exp.parallel.ranks import Ranks

if TYPE_CHECKING:
    from babygpt_exp.data.module import StreamDataModule
    from babygpt_exp.module import GPTModule

PATIENCE_SECONDS = 3.0
"""How long a step may go on after somebody asked to stop; then what it has is left. Schedulers
kill soon after they ask, the checkpoint is to be on the disk within 10 seconds."""

RETRY_SECONDS = 0.2
"""How soon to look again where a run can not be left: in an update of the weights, in a write."""


class StopSignals:
    """A context in which Ctrl-C and SIGTERM end a run: the first after the step, the second now.

    A step that takes long is left, and the run ends as after the step before. Before the first
    step has ended, the first signal ends the run at once too. What comes out of the context is a
    RunInterrupted that names the signal.

    Of several ranks none leaves by itself: all end after the step at which one was asked to.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.requested: signal.Signals | None = None
        self.training = False
        self.may_leave = False
        self.outcome = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = self.listen()
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
        return self

    def listen(self) -> dict[signal.Signals, Any]:
        """Hear the signals, also after somebody else has asked for them; returns who heard them."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        return {number: signal.signal(number, self._handle) for number in numbers}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is not None and self.ranks.world > 1:
            # Whoever started the ranks ends them all when one fails; this one has to say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Lightning turns a KeyboardInterrupt into a SystemExit.
        if isinstance(error, KeyboardInterrupt | SystemExit) and self.requested is not None:
            raise RunInterrupted(f"stopped by {self.requested.name}", self.requested) from error

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Where a run may be left at any moment: no weight is changed, nothing is written."""
        self.may_leave = True
        try:
            yield
        finally:
            self.may_leave = False

    @property
    def is_requested(self) -> bool:
        """Whether this process was asked to end the run."""
        return self.requested is not None

    def leave(self, *, all_do: bool = False) -> None:
        """End the run, if somebody asked for it; of several ranks only if `all_do`."""
        if all_do:
            self.requested = self.requested or signal.SIGTERM
        elif self.ranks.world > 1:
            return
        if self.requested is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            message = f"stopped by {self.requested.name} {self.outcome}"
            raise RunInterrupted(message, self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.requested is None
        self.requested = signal.Signals(number)
        if not (first and self.training):
            raise KeyboardInterrupt
        if self.ranks.world == 1:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS, RETRY_SECONDS)
        if self.ranks.is_first:
            print("\nstopping after this step; again stops at once", file=sys.stderr, flush=True)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        if self.may_leave:
            self.leave()


class Stop(L.Callback):
    """Ends the run at its budget or on a signal; comes last, when all else of a step is done."""

    def __init__(self, config: Config, signals: StopSignals, checkpoints: Checkpoints) -> None:
        self.config, self.signals, self.checkpoints = config, signals, checkpoints

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals in between the layers of a backward pass, which is else one long call."""
        module: GPTModule = pl_module  # type: ignore[assignment]
        if not module.compiled:
            for layer in module.model.layers:
                learned = (p for p in layer.parameters() if p.requires_grad)
                for parameter in islice(learned, 1):
                    parameter.register_post_accumulate_grad_hook(breathe)  # type: ignore[no-untyped-call]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has asked for SIGTERM, and would end the run in its own way."""
        self.signals.listen()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Look after each step."""
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if batch.next is not None:
            self.signals.training = True
            last = self.checkpoints.folder.last_checkpoint
            self.signals.outcome = f"after step {trainer.global_step}, saved in {last}"
        if self.signals.training:
            # the checkpoint is saved on the way out
            self.signals.leave(all_do=data.all_stop and batch.next is not None)
            self.signals.may_leave = True
        if batch.next is not None and trainer.global_step >= self.config.run.num_steps:
            trainer.should_stop = True  # Lightning validates once more, then ends

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """From here to the end of the step the weights are neither the old nor the new ones."""
        self.signals.may_leave = False

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What follows is written."""
        self.signals.may_leave = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """It is written."""
        if self.signals.training:
            self.signals.leave()
            self.signals.may_leave = True


def breathe(parameter: Tensor) -> None:
    """A moment of Python, in which a signal is heard."""
