"""The jobs of a sweep as processes: some at a time, watched, and stopped when somebody asks."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import FrameType

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from babygpt_exp.errors import RunInterrupted, UserError
from babygpt_exp.sweep.child import Child, Job, Share
from babygpt_exp.sweep.folder import Sweep

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often to look at what wakes nobody: time limits, signals, the sweep's streamers."""

GRACE_SECONDS = 30.0
"""How long a job that was asked to stop may take; its checkpoint is written within 10."""


class Processes:
    """Runs the jobs of a sweep as children of this process, `n_jobs` at a time.

    A job is a failed row if it dies, whatever of; the others go on.
    """

    def __init__(
        self, sweep: Sweep, n_jobs: int, time_limit_seconds: float | None, gpus: list[str]
    ) -> None:
        """`gpus` are ids to give out, one a job; without any a job has what is visible."""
        self.sweep = sweep
        self.n_jobs = n_jobs
        self.time_limit_seconds = time_limit_seconds
        self.gpus = gpus

    def run(self, jobs: Sequence[Job]) -> dict[int, JobReturn]:
        """What became of each job, by its number.

        Raises RunInterrupted on Ctrl-C and SIGTERM, when the jobs that ran have ended.
        """
        to_run = deque(jobs)
        slots: list[Child | None] = [None] * self.n_jobs
        returns: dict[int, JobReturn] = {}
        with Signals() as signals, DefaultSelector() as selector:
            while any(slots) or (to_run and not signals.number):
                for slot in (n for n, child in enumerate(slots) if child is None):
                    if to_run and not signals.number:
                        slots[slot] = child = self._start(to_run.popleft(), slot, slots)
                        for handle in child.handles:
                            selector.register(handle, EVENT_READ, child)
                for child in {key.data for key, _ in selector.select(TICK_SECONDS)}:
                    ended = child.has_ended  # before it is heard out
                    tell(child)
                    if ended:
                        for handle in child.handles:
                            selector.unregister(handle)
                        slots[slots.index(child)] = None
                        returns[child.job.number] = self._ended(child)
                running = [child for child in slots if child is not None]
                if signals.fresh():
                    for child in running:
                        child.ask_to_stop(signals.number)
                for child in running:
                    self._watch(child)
                self.sweep.look_after_streamers()
        signals.leave(self.sweep.folder, len(to_run))
        return returns

    def _start(self, job: Job, slot: int, slots: list[Child | None]) -> Child:
        """Fork a job."""
        log.info(f"#{job.number} : {' '.join(filter_overrides(job.overrides))}")
        self.sweep.prepare(job.config)
        alone = self.n_jobs == 1
        share = Share(
            num_threads=None if alone else max(1, num_cores() // self.n_jobs),
            gpu=self.gpus[slot % len(self.gpus)] if self.gpus else None,
        )
        others = [child for child in slots if child is not None]
        foreign = [handle for child in others for handle in child.handles]
        return Child(job, share, piped=not alone, foreign=foreign)

    def _watch(self, child: Child) -> None:
        """Stop a job that is over its time, and end one that does not stop."""
        now = time.monotonic()
        limit = self.time_limit_seconds
        if limit is not None and now > child.started + limit and child.asked_at is None:
            child.ask_to_stop(signal.SIGTERM, f"time limit of {limit:g} s")
        if child.asked_at is not None and now > child.asked_at + GRACE_SECONDS:
            child.kill()

    def _ended(self, child: Child) -> JobReturn:
        """What became of a job, in its summary too if it could not write that itself."""
        result, code = child.end()
        job = child.job
        if result is None:
            error = self.sweep.record_death(
                job.folder, job.overrides, child.stop_reason, death(code)
            )
            result = JobReturn(overrides=job.overrides, status=JobStatus.FAILED)
            result.return_value = UserError(f"job {job.number}: {error}")
        if result.status == JobStatus.COMPLETED:
            log.info(f"#{job.number} : done in {time.monotonic() - child.started:.0f} s")
        else:
            log.error(f"#{job.number} : {result._return_value}")
        return result


class Signals:
    """A context in which Ctrl-C and SIGTERM are noted, to be sent on."""

    def __init__(self) -> None:
        self.number = 0
        self._count = self._seen = 0

    def __enter__(self) -> Signals:
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number, self._count = number, self._count + 1

    def fresh(self) -> bool:
        """Whether another one has come."""
        self._seen, seen = self._count, self._seen
        return self._seen > seen

    def leave(self, folder: Path, num_left: int) -> None:
        """End the sweep if somebody has asked for it."""
        if self.number:
            name = signal.Signals(self.number).name
            raise RunInterrupted(
                f"sweep stopped by {name}, {num_left} jobs not begun; "
                f"the same command with hydra.sweep.dir={folder} goes on",
                self.number,
            )


def tell(child: Child) -> None:
    """Say what a child said, each line with its number."""
    for line in child.read():
        print(f"[{child.job.number}] {line}", flush=True)


def death(code: int) -> str:
    """In words, how a process ended that left no result."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
