"""The worker: the one thread that owns the engine, and what it tells the event loop.

Texts wait in the order of their coming and get a slot as soon as one is free: between two steps.
What the steps have written is handed to the event loop many tokens at a time, in one call for all
texts: at once when a text begins or ends, else after HAND_OVER_SECONDS. An event loop that is woken
for every step takes the interpreter from the engine as often, and a reader sees no difference.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from babygpt_exp.generation.engine import Engine, Written
from babygpt_exp.generation.request import Request
from babygpt_exp.serving.metrics import Metrics

log = logging.getLogger(__name__)

HAND_OVER_SECONDS = 0.03
"""How long a token that is neither the first of a text nor its last may wait for company."""

STOP_SECONDS = 1.0
"""How long the step that is being computed is waited for in the end."""


@dataclass(eq=False)
class Job:
    """A text that is to be written."""

    request: Request
    """What is asked of the engine."""
    take: Callable[[Written], None]
    """Told each token, in the event loop."""
    fail: Callable[[str], None]
    """Told why there will be no more, in the event loop."""
    submitted_at: float = 0.0
    """When it came, on the clock of time.perf_counter."""
    first_at: float = 0.0
    """When its first token came; 0 before."""
    num_tokens: int = 0
    """Tokens so far."""
    cancelled: bool = False
    """Whether nobody waits for it any more: its slot becomes free before the next step."""


class Worker:
    """Writes texts, in a thread of its own."""

    def __init__(self, engine: Engine, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._metrics, self._loop = engine, metrics, loop
        self._changed = threading.Condition()
        self._waiting: dict[Job, None] = {}
        self._active: dict[int, Job] = {}  # by slot
        self._fresh: list[tuple[Job, Written]] = []
        self._handed_at = 0.0
        self._stopping = False
        self.broken = ""
        """Why nothing is written any more; empty as long as all is well."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to wait for texts."""
        self._thread.start()

    def stop(self) -> bool:
        """Write no more; whoever still waits is not told. Whether it ended within STOP_SECONDS."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Texts without a slot."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Texts with one."""
        return len(self._active)

    def submit(self, jobs: Iterable[Job]) -> bool:
        """Let texts be written, each as soon as there is a slot; False if broken."""
        now = time.perf_counter()
        with self._changed:
            if self.broken:
                return False
            for job in jobs:
                job.submitted_at = now
                self._waiting[job] = None
            self._changed.notify()
        return True

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Forget texts, wherever they are."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
                self._waiting.pop(job, None)

    def _run(self) -> None:
        try:
            while self._next_jobs():
                self._step()
        except Exception as error:
            log.exception("the engine has failed")
            self._break(f"the engine has failed: {type(error).__name__}")

    def _next_jobs(self) -> bool:
        """Fill the slots as far as there are texts; sleeps without any. False in the end."""
        for slot, job in list(self._active.items()):
            if job.cancelled:
                self._engine.cancel(slot)
                del self._active[slot]
        if self._waiting or not self._active:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._active or self._stopping)
                while self._waiting and self._engine.num_free:
                    job = next(iter(self._waiting))
                    self._active[self._engine.add(job.request)] = job
                    del self._waiting[job]
        return not self._stopping

    def _step(self) -> None:
        """A token more for every text."""
        written = self._engine.step()
        now = time.perf_counter()
        is_due = now - self._handed_at >= HAND_OVER_SECONDS
        for one in written:
            job = self._active[one.slot]
            job.num_tokens += 1
            if not job.first_at:
                job.first_at, is_due = now, True
                self._metrics.first_token_seconds.observe(now - job.submitted_at)
            if one.finish_reason is not None:
                is_due = True
                del self._active[one.slot]
                self._metrics.count_text(one.finish_reason, job.num_tokens, now - job.first_at)
            self._fresh.append((job, one))
        self._metrics.num_steps += 1
        self._metrics.num_completion_tokens += len(written)
        if is_due:
            fresh, self._fresh, self._handed_at = self._fresh, [], now
            self._loop.call_soon_threadsafe(_hand_over, fresh)

    def _break(self, reason: str) -> None:
        """Tell everybody who waits that there is nothing to wait for."""
        with self._changed:
            self.broken = reason
            jobs = [*self._active.values(), *self._waiting]
            self._active, self._waiting = {}, {}
        self._loop.call_soon_threadsafe(_fail, jobs, reason)


def _hand_over(fresh: list[tuple[Job, Written]]) -> None:
    for job, written in fresh:
        if not job.cancelled:
            job.take(written)


def _fail(jobs: list[Job], reason: str) -> None:
    for job in jobs:
        job.fail(reason)
