"""A run's configuration made endless: the same run, measured for as long as it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from babygpt_exp.config import Config, RunConfig

NEVER_STEPS = 10**12
"""Steps after which nothing comes any more."""


@dataclass
class EndlessRun(RunConfig):
    """A run that does not reach its budget, by which all else is chosen as before."""

    @property
    def num_steps(self) -> int:
        """More than anybody waits for."""
        return NEVER_STEPS


def endless(config: Config) -> Config:
    """The run with its own logging interval, without evaluations, samples and checkpoints.

    Its one evaluation is that of the end, of one batch.
    """
    run = config.run
    log_steps = run.interval_steps(run.log_every_tokens, parts=1000)
    own = {
        "log_every_tokens": log_steps * run.batch_tokens,
        "eval_every_tokens": None,
        "sample_every_tokens": None,
        "checkpoint_every_tokens": None,
        "eval_tokens": run.batch_tokens,
    }
    return replace(config, run=EndlessRun(**{**vars(run), **own}))
