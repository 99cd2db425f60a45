"""The jobs of a sweep as jobs of SLURM, by submitit; or by its local executor, to try the same."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, filter_overrides

from babygpt_exp.errors import ConfigError, RunInterrupted, UserError, one_line
from babygpt_exp.folder import write_whole
from babygpt_exp.sweep.child import Job
from babygpt_exp.sweep.folder import Sweep
from babygpt_exp.sweep.processes import Signals, failure, outcome
from babygpt_exp.sweep.spawned import Parcel, wait_for
from babygpt_exp.sweep.submission import Submission
from babygpt_exp.sweep.watched import GRACE_SECONDS

if TYPE_CHECKING:
    import submitit

    Submitted = submitit.Job[Any]

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""How often to look for results."""

STATE_SECONDS = 60.0
"""How often to ask SLURM for jobs that may have ended without one."""

FILE_SECONDS = 20.0
"""How long a result may take to be seen here after its job has ended: a network file system
remembers for some seconds that there was none."""

KILLED_SECONDS = 90.0
"""How long a job that SLURM has asked to end waits to be killed; KillWait is 30 s as a rule."""


@dataclass
class SubmititJobs:
    """Runs the jobs of a sweep as one array of jobs."""

    sweep: Sweep
    """Where they belong."""
    pack: Callable[[Job], Parcel]
    """Makes of a job what is sent."""
    executor: str
    """`slurm` or `local`."""
    folder: str
    """For submitit's files; `%j` is the id of a job."""
    max_num_timeout: int
    """How often a job whose time is up is put back in line."""
    parameters: Mapping[str, Any]
    """What a job takes, in submitit's words, and its time in `timeout_min`."""
    _waiting: dict[int, tuple[Job, Submitted, float]] = field(default_factory=dict, init=False)

    def run(self, jobs: Sequence[Job]) -> dict[int, JobReturn]:
        """What became of each job, by its number. Jobs that are in SLURM already are waited for.

        Raises RunInterrupted on Ctrl-C and SIGTERM, when jobs of SLURM go on and local ones have
        ended; ConfigError if jobs in SLURM are of another sweep; UserError if SLURM takes none.
        """
        executor = self._new_executor()
        to_submit = [job for job in jobs if not self._found(job)]
        with Signals() as signals:
            if to_submit:
                self._submit(executor, to_submit)
            returns: dict[int, JobReturn] = {}
            asked_at = time.monotonic()
            while self._waiting and not signals.number:
                ask = time.monotonic() > asked_at + STATE_SECONDS
                asked_at = time.monotonic() if ask else asked_at
                for number, (job, submitted, started) in list(self._waiting.items()):
                    if submitted.done(force_check=ask):
                        returns[number] = self._ended(job, submitted, started)
                        del self._waiting[number]
                    ask = False  # one answer is for all
                time.sleep(TICK_SECONDS if self._waiting else 0)
            if signals.number and self._waiting:
                self._leave(signals)
        self.sweep.refresh()
        return returns

    def _new_executor(self) -> submitit.AutoExecutor:
        """submitit's, with what a job takes."""
        import submitit

        limits = {f"{self.executor}_max_num_timeout": self.max_num_timeout}
        try:
            executor = submitit.AutoExecutor(self.folder, cluster=self.executor, **limits)
        except RuntimeError as error:
            raise ConfigError(
                "hydra/launcher=submitit_slurm needs SLURM's sbatch and srun on this machine; "
                "hydra.launcher.executor=local tries the same without"
            ) from error
        shared = submitit.AutoExecutor._typed_parameters()
        names = {name: name if name in shared else f"slurm_{name}" for name in self.parameters}
        try:
            executor.update_parameters(
                **{names[name]: value for name, value in self.parameters.items()}
            )
        except (AssertionError, NameError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {one_line(error)}") from error
        return executor

    @property
    def _list(self) -> Path:
        """The file that says which jobs were submitted."""
        return self.sweep.folder / ".submitit" / "jobs.json"

    def _found(self, job: Job) -> bool:
        """Whether a job is in SLURM already, by a launcher that has left; it is waited for then."""
        from submitit import SlurmJob

        try:
            known = json.loads(self._list.read_text()).get(str(job.number))
        except FileNotFoundError:
            return False
        if known is None or self.executor != "slurm":
            return False
        submitted: Submitted = SlurmJob(self.folder, known["id"], known["tasks"])
        if submitted.done(force_check=True) or submitted.state == "UNKNOWN":
            return False
        if known["overrides"] != job.overrides:
            raise ConfigError(
                f"{self.sweep.folder} is of another sweep: its job {job.number}, {known['id']} in "
                f"SLURM, has {' '.join(known['overrides'])}, not {' '.join(job.overrides)}"
            )
        self._wait_for(job, submitted)
        return True

    def _submit(self, executor: submitit.AutoExecutor, jobs: list[Job]) -> None:
        """As one array."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        patience = KILLED_SECONDS if self.executor == "slurm" else 0.0
        calls = [Submission(self.pack(job), patience) for job in jobs]
        try:
            for job, submitted in zip(jobs, executor.submit_array(calls), strict=True):
                self._wait_for(job, submitted)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"SLURM took no jobs: {one_line(error)}") from error
        listed = {
            number: {
                "id": submitted.job_id,
                "tasks": list(range(submitted.num_tasks)),
                "overrides": job.overrides,
            }
            for number, (job, submitted, _) in self._waiting.items()
        }
        write_whole(self._list, json.dumps(listed))

    def _wait_for(self, job: Job, submitted: Submitted) -> None:
        self._waiting[job.number] = (job, submitted, time.monotonic())
        words = " ".join(filter_overrides(job.overrides))
        log.info(f"#{job.number} : {words}")
        log.info(f"#{job.number} : job {submitted.job_id}, {submitted.task(0).paths.stdout}")

    def _ended(self, job: Job, submitted: Submitted, started: float) -> JobReturn:
        """What became of a job, by what its first task has left."""
        from submitit.core.utils import UncompletedJobError

        task = submitted.task(0)
        deadline = time.monotonic() + (FILE_SECONDS if self.executor == "slurm" else 0)
        while not task.paths.result_pickle.exists() and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
        if not task.paths.result_pickle.exists():
            state = task.state.upper()
            words = f"{self.executor} job {submitted.job_id} has ended: {state}"
            # Who cancels a job knows why it ended.
            return self._failed(job, "" if state.startswith("CANCELLED") else words, words)
        try:
            end = task.result()
        except UncompletedJobError as error:
            reason = one_line(error)
            if "timed-out too many times" in reason:
                reason = (
                    f"out of time: hydra.launcher.timeout_min={self.parameters['timeout_min']}, "
                    f"and max_num_timeout={self.max_num_timeout} times again"
                )
            return self._failed(job, reason, reason)
        return outcome(self.sweep, job, end, time.monotonic() - started)

    def _failed(self, job: Job, reason: str, end: str) -> JobReturn:
        """A job that could not say itself why it failed."""
        error = self.sweep.record_death(job.folder, job.overrides, reason, end)
        log.error(f"#{job.number} : {error}")
        return failure(job, error)

    def _leave(self, signals: Signals) -> None:
        """End the launcher before its jobs: those of SLURM go on, local ones are stopped."""
        if self.executor != "slurm":
            for _, submitted, _ in self._waiting.values():
                submitted.cancel(check=False)
            for job, _, _ in self._waiting.values():
                wait_for(job.folder, GRACE_SECONDS)
            self.sweep.refresh()
            signals.leave(self.sweep.folder, 0)
        ids = sorted({submitted.job_id.split("_")[0] for _, submitted, _ in self._waiting.values()})
        raise RunInterrupted(
            f"the launcher was stopped, {len(self._waiting)} jobs go on in SLURM: "
            f"scancel {' '.join(ids)} ends them, and the same command with "
            f"hydra.sweep.dir={self.sweep.folder} waits for them",
            signals.number,
        )
