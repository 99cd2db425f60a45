"""A sweep that learns, from its first job to its last; what runs the jobs is given to it."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from hydra.core.utils import JobReturn, JobStatus

from babygpt_exp.errors import UserError
from babygpt_exp.pruner import PrunedValue
from babygpt_exp.search.sampler import Sampler
from babygpt_exp.search.space import Space
from babygpt_exp.search.trials import Trial, Trials

GIVE_UP = 10
"""If the first jobs all fail, as many as this, something is wrong with all of them."""

Launch = Callable[[list[list[str]], int], Sequence[JobReturn]]
"""Runs a batch of jobs, given their overrides and the number of the first one."""


@dataclass(frozen=True)
class Search:
    """Asks what to try, has it run in batches, and keeps what came of it."""

    space: Space
    """What to search."""
    sampler: Sampler
    """Who chooses."""
    trials: Trials
    """What the folder of the sweep has already: those jobs are handed over first, as they were."""
    num_trials: int
    """Jobs in all."""
    batch_size: int
    """Jobs that are chosen and handed over together."""

    def run(self, launch: Launch) -> list[Sequence[JobReturn]]:
        """Run all jobs; returns what became of each, batch by batch.

        Raises the error of the first job that failed, when all are done.
        """
        returns: list[Sequence[JobReturn]] = []
        while batch := self._next_batch(sum(map(len, returns))):
            returns.append(self._launch(batch, launch))
            if len(self.trials.all) >= GIVE_UP and self.trials.have_all_failed:
                print(f"the first {len(self.trials.all)} jobs have all failed: no more are begun")
                break
        self._tell()
        for job, result in enumerate(itertools.chain.from_iterable(returns)):
            check(job, result)
        return returns

    def _next_batch(self, number: int) -> list[Trial]:
        """The trials from a number on: all that the folder has, or else a few new ones."""
        trials = self.trials.all
        if number < len(trials):
            return trials[number : self.num_trials]
        while len(trials) < min(number + self.batch_size, self.num_trials):
            params = self.sampler.propose(self.space, trials)
            if params is None:
                if number == len(trials):
                    print(f"all {number} combinations have been tried: there is no other")
                break
            trials.append(Trial(len(trials), params))
        return trials[number:]

    def _launch(self, batch: Sequence[Trial], launch: Launch) -> Sequence[JobReturn]:
        """Run a batch, and keep what came of it."""
        self.trials.write()  # before, so that a sweep that is killed knows what it was at
        results = launch([self.space.job(trial.params) for trial in batch], batch[0].job)
        for trial, result in zip(batch, results, strict=True):
            trial.state, trial.value = outcome(result)
        self.trials.write()
        return results

    def _tell(self) -> None:
        """Say which job was best, in words that can be pasted."""
        best = self.trials.best
        print(f"{self.trials.counts()}; {self.trials.path}")
        if best is not None:
            print(f"best is job {best.job} with {best.value:.6g}:")
            print(shlex.join(self.space.job(best.params)), flush=True)


def outcome(result: JobReturn) -> tuple[Literal["complete", "pruned", "failed"], float | None]:
    """State and value of a job that has ended."""
    value = result.return_value if result.status == JobStatus.COMPLETED else None
    if not is_number(value):
        return "failed", None
    return ("pruned" if isinstance(value, PrunedValue) else "complete"), float(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether trials can be compared by it."""
    return isinstance(value, float | int) and math.isfinite(value)


def check(job: int, result: JobReturn) -> None:
    """Raise the error of a job that failed."""
    value = result.return_value  # raises what the job has raised
    if not is_number(value):
        raise UserError(f"job {job} returned {value!r}: a sweep by Optuna needs a finite number")
