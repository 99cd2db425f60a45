"""What to try next: a pure function of the seed and of the trials so far.

Optuna's study is made anew for each question and forgotten. So there is nothing to save, a sweep
that is started again asks the same questions, and the same trials give the same answer.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from babygpt_exp.search.space import Space
    from babygpt_exp.search.trials import Trial

ATTEMPTS = 10
"""How often to ask for what has not been tried; a run that is repeated says nothing new."""


@dataclass(frozen=True)
class Sampler:
    """How to choose."""

    name: str
    """`tpe`, Parzen estimators that learn from the trials, or `random`, chance alone."""
    seed: int
    """Seed of all that is random."""
    num_startup_trials: int
    """Trials that are left to chance before TPE begins to learn."""
    direction: str
    """`minimize` or `maximize`: what is better."""

    def propose(self, space: Space, trials: Sequence[Trial]) -> dict[str, str] | None:
        """Words for the next trial, that no trial has; None if nothing is left to try."""
        tried = {tuple(trial.params.items()) for trial in trials}
        for attempt in range(ATTEMPTS):
            words = self._ask(space, trials, attempt)
            if tuple(words.items()) not in tried:
                return words
        values = [dimension.words() for dimension in space.dimensions.values()]
        finite = [words for words in values if words is not None]
        if len(finite) < len(values):
            return words
        combinations = (
            dict(zip(space.dimensions, c, strict=True)) for c in itertools.product(*finite)
        )
        return next((c for c in combinations if tuple(c.items()) not in tried), None)

    def _ask(self, space: Space, trials: Sequence[Trial], attempt: int) -> dict[str, str]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with quiet():
            study = optuna.create_study(
                direction=optuna.study.StudyDirection[self.direction.upper()],
                sampler=self._optuna(len(trials), attempt),
            )
            study.add_trials([told(space, trial) for trial in trials])
            asked = study.ask({key: d.distribution for key, d in space.dimensions.items()})
        return {key: d.word(asked.params[key]) for key, d in space.dimensions.items()}

    def _optuna(self, number: int, attempt: int) -> BaseSampler:
        """Optuna's sampler for one question, with a seed of its own."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = random.Random(f"{self.seed}:{number}:{attempt}").getrandbits(32)
        if self.name == "random":
            return RandomSampler(seed=seed)
        return TPESampler(
            seed=seed,
            n_startup_trials=self.num_startup_trials,
            multivariate=True,
            constant_liar=True,  # what is running counts as bad, so that a batch spreads out
        )


def told(space: Space, trial: Trial) -> FrozenTrial:
    """A trial as Optuna is told of it.

    One that failed is told as pruned without a value, which is worse than any other. As failed,
    TPE would not know of it, and try what diverges again and again, for want of a reason not to.
    """
    from optuna.trial import TrialState, create_trial

    states = {
        "running": TrialState.RUNNING,
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.PRUNED,
    }
    return create_trial(
        state=states[trial.state],
        value=trial.value if trial.state == "complete" else None,
        params={key: d.kind(trial.params[key]) for key, d in space.dimensions.items()},
        distributions={key: d.distribution for key, d in space.dimensions.items()},
        intermediate_values={1: trial.value}
        if trial.state == "pruned" and trial.value is not None
        else {},
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's word of caution on what it calls experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
