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

from babygpt_exp.errors import RunInterrupted, UserError, death
from babygpt_exp.sweep.child import Child, Job, Share
from babygpt_exp.sweep.folder import Sweep
from babygpt_exp.sweep.watched import End

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often to look at what wakes nobody: time limits, signals, the sweep's streamers."""


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
                    tell(child.job.number, child.read())
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
                    child.keep_to(self.time_limit_seconds)
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

    def _ended(self, child: Child) -> JobReturn:
        """What became of a job."""
        return outcome(self.sweep, child.job, child.end(), time.monotonic() - child.started)


def outcome(sweep: Sweep, job: Job, end: End, seconds: float) -> JobReturn:
    """What became of a job, in its summary too if it could not write that itself."""
    result = end.result
    if result is None:
        error = sweep.record_death(job.folder, job.overrides, end.reason, death(end.code))
        result = failure(job, error)
    if result.status == JobStatus.COMPLETED:
        log.info(f"#{job.number} : done in {seconds:.0f} s")
    else:
        log.error(f"#{job.number} : {result._return_value}")
    return result


def failure(job: Job, error: str) -> JobReturn:
    """What became of a job that could not say so itself."""
    result = JobReturn(overrides=job.overrides, status=JobStatus.FAILED)
    result.return_value = UserError(f"job {job.number}: {error}")
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


def tell(number: int, lines: list[str]) -> None:
    """Say what a job said, each line with its number."""
    for line in lines:
        print(f"[{number}] {line}", flush=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
