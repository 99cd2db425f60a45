"""A job of a sweep as submitit runs it: stopped in time, and put back in line."""

from __future__ import annotations

import select
import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from babygpt_exp.sweep.spawned import Parcel, Spawned
from babygpt_exp.sweep.watched import End

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

TICK_SECONDS = 0.5
"""How often to look whether a job that was asked to stop has to be killed."""


@dataclass
class Submission:
    """What submitit calls where the job is to run.

    On submitit's signal, which comes before the time is up and on preemption, it calls `checkpoint`
    and has the scheduler start the job again. SIGTERM alone is passed on to the job: the scheduler
    kills this process a moment later, and knows itself whether the job comes again.
    """

    parcel: Parcel
    """The job."""
    patience_seconds: float
    """How long to wait after a SIGTERM to be killed. A result would say that the job is over."""
    attempt: int = 0
    """How often it was put back in line."""

    def __call__(self) -> End:
        """Run the job to its end."""
        self._terminated = False
        self._job: Spawned | None = Spawned(self.parcel, piped=False, again=self.attempt > 0)
        signal.signal(signal.SIGTERM, self._pass_on)
        self._wait()
        if self._terminated:
            time.sleep(self.patience_seconds)
        job, self._job = self._job, None
        return job.end()

    def checkpoint(self) -> DelayedSubmission:
        """submitit's: stop the job after its checkpoint; what to run when it is started again."""
        from submitit.helpers import DelayedSubmission

        if self._job is not None:
            self._pass_on(signal.SIGTERM)
            self._wait()
            self._job.end()
        return DelayedSubmission(
            Submission(self.parcel, self.patience_seconds, self.attempt + 1)  # nothing that runs
        )

    def _wait(self) -> None:
        """Until the job has ended."""
        assert self._job is not None
        while not select.select([self._job.pidfd], [], [], TICK_SECONDS)[0]:
            self._job.keep_to(None)

    def _pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """Ask the job to stop; once, since a second time means at once."""
        self._terminated = True
        if self._job is not None and self._job.asked_at is None:
            self._job.ask_to_stop(signal.SIGTERM)
