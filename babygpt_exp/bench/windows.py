"""Windows of training by Lightning and of a bare loop, in turns, on one model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch._dynamo.utils import counters

from babygpt_exp.bench.settings import BenchSettings
from babygpt_exp.callbacks.metrics import Clock
from babygpt_exp.callbacks.stop import StopSignals
from babygpt_exp.config import Config
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.module import GPTModule
from babygpt_exp.peak import synchronize

if TYPE_CHECKING:
    from babygpt_exp.data.module import StreamDataModule

WARMUP_STEPS = 4
"""Steps before the first window: the first compiles, the next fill the allocator."""

WINDOW_STEPS = 3
"""Least steps of a window, however long they are."""

RECENT_STEPS = 8
"""Steps of training whose batches the bare loop trains on again."""


@dataclass(frozen=True)
class Window:
    """A stretch of training without anything else in it."""

    num_tokens: int
    """Tokens trained on."""
    num_steps: int
    """Optimizer steps."""
    seconds: float
    """Wall time."""
    waited_seconds: float
    """Time of it without data; a bare loop has its data already."""

    @property
    def tokens_per_s(self) -> float:
        """Speed."""
        return self.num_tokens / self.seconds


def num_compiled_graphs() -> int:
    """Graphs that dynamo has compiled so far in this process, recompiled ones among them."""
    return int(counters["stats"]["unique_graphs"])


class BareLoop:
    """A training loop in plain PyTorch, with a run's own model, optimizer and schedule."""

    def __init__(self, config: Config, module: GPTModule, trainer: L.Trainer) -> None:
        self.module, self.clip = module, config.optimizer.clip
        self.parameters = list(module.model.parameters())
        self.optimizer = trainer.optimizers[0]
        self.schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        self.precision = trainer.precision_plugin.forward_context  # autocast, where it is mixed
        self.scaler = torch.amp.GradScaler(
            module.device.type, enabled=config.precision.name == "16-mixed"
        )

    def step(self, parts: list[MicroBatch]) -> None:
        """One optimizer step on the micro-batches of a batch."""
        self.optimizer.zero_grad()
        for part in parts:
            with self.precision():
                loss = self.module.nats(part) / part.share_targets / len(parts)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()

    def run(self, batches: Sequence[list[MicroBatch]], seconds: float, num_steps: int) -> Window:
        """Train on batches, again and again, for at least so long and so many steps."""
        num_done = num_tokens = 0
        start = time.perf_counter()
        while num_done < num_steps or time.perf_counter() - start < seconds:
            parts = batches[num_done % len(batches)]
            self.step(parts)
            num_done += 1
            num_tokens += sum(part.num_tokens for part in parts)
        synchronize(self.module.device)
        return Window(num_tokens, num_done, time.perf_counter() - start, 0.0)


class Interleave(L.Callback):
    """Measures windows of the training that it is part of, with one of a bare loop between two.

    Comes last, so that a step's other callbacks are in the window. When all windows are there,
    it ends the training.
    """

    def __init__(
        self,
        config: Config,
        settings: BenchSettings,
        clock: Clock,
        signals: StopSignals,
    ) -> None:
        self.config, self.settings, self.clock, self.signals = config, settings, clock, signals
        self.trained: list[Window] = []
        self.bare: list[Window] = []
        self.first_step_seconds = 0.0
        self.num_graphs = 0
        self._begin = time.perf_counter()
        self._parts: list[MicroBatch] = []
        self._recent: deque[list[MicroBatch]] = deque(maxlen=RECENT_STEPS)
        self._mark = (0, 0, 0.0, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take up what the two loops share."""
        self._loop = BareLoop(self.config, pl_module, trainer)  # type: ignore[arg-type]
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """After each step: warm up, close a window, run the bare loop, or end."""
        self._parts.append(batch)
        if batch.next is None:
            return
        self.signals.training = False  # there is nothing to save: Ctrl-C stops at once
        self._recent.append(self._parts)
        self._parts = []
        step = trainer.global_step
        if step <= WARMUP_STEPS:
            self._warm_up(trainer, step)
            return
        window = self._window(trainer)
        if window.num_steps < WINDOW_STEPS or window.seconds < self.settings.seconds:
            return
        self.trained.append(window)
        if len(self.trained) > self.settings.pairs:
            trainer.should_stop = True  # Lightning validates once, then ends
            return
        with self.clock.pause():
            self.bare.append(self._loop.run(self._recent, self.settings.seconds, WINDOW_STEPS))
        speeds = f"{window.tokens_per_s:,.0f} and {self.bare[-1].tokens_per_s:,.0f} tokens a second"
        print(f"pair {len(self.bare)} of {self.settings.pairs}: {speeds}", flush=True)
        self._set_mark(trainer)

    def _warm_up(self, trainer: L.Trainer, step: int) -> None:
        synchronize(self._loop.module.device)
        if step == 1:
            self.first_step_seconds = time.perf_counter() - self._begin
        if step == 2:
            self.num_graphs = num_compiled_graphs()
        if step == WARMUP_STEPS:
            with self.clock.pause():
                self._loop.run(self._recent, 0.0, 1)
            self._set_mark(trainer)

    def _set_mark(self, trainer: L.Trainer) -> None:
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        tokens = self._loop.module.tokens
        self._mark = (tokens, trainer.global_step, data.waited_seconds, time.perf_counter())

    def _window(self, trainer: L.Trainer) -> Window:
        """Training since the mark."""
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        tokens, step, waited, start = self._mark
        if time.perf_counter() - start >= self.settings.seconds:
            synchronize(self._loop.module.device)
        return Window(
            num_tokens=self._loop.module.tokens - tokens,
            num_steps=trainer.global_step - step,
            seconds=time.perf_counter() - start,
            waited_seconds=data.waited_seconds - waited,
        )


def ratios(trained: Sequence[Window], bare: Sequence[Window]) -> list[float]:
    """Speed of training over that of the bare loop, a pair.

    A bare loop's window stands between two of training, and is compared with their mean.
    """
    return [
        (before.tokens_per_s + after.tokens_per_s) / 2 / window.tokens_per_s
        for (before, after), window in zip(pairwise(trained), bare, strict=True)
    ]
