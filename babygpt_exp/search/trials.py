"""The trials of a sweep, and the file that keeps them: SWEEP/optimization_results.yaml.

It is whole at any moment, and all that the sweeper knows: a sweep that is started again goes on
with what is written there, whatever the sampler would say now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser

from babygpt_exp.errors import ConfigError, one_line
from babygpt_exp.folder import write_whole

FILE = "optimization_results.yaml"
"""Its name in the folder of a sweep, as the sweepers of Hydra have it."""


@dataclass
class Trial:
    """A job of the sweep."""

    job: int
    """Its number, and the name of its folder."""
    params: dict[str, str]
    """What was chosen for it, as words of an override."""
    state: Literal["running", "complete", "pruned", "failed"] = "running"
    """What became of it; `running` also if the sweep ended before it did."""
    value: float | None = None
    """What it returned; of a pruned one, when that was stopped."""


@dataclass
class Trials:
    """All of them, by number."""

    path: Path
    """File that keeps them."""
    direction: str
    """`minimize` or `maximize`: what is better."""
    overrides: list[str]
    """What the sweep was called with."""
    all: list[Trial] = field(default_factory=list)
    """By number."""

    @property
    def best(self) -> Trial | None:
        """The best of those that are complete, the first one of equals."""
        done = [trial for trial in self.all if trial.state == "complete"]
        sign = 1 if self.direction == "minimize" else -1
        return min(done, key=lambda trial: sign * float(trial.value or 0), default=None)

    @property
    def have_all_failed(self) -> bool:
        """Whether not one is any good."""
        return all(trial.state == "failed" for trial in self.all)

    def counts(self) -> str:
        """How many there are of each state, in words."""
        states = [trial.state for trial in self.all]
        found = {state: states.count(state) for state in ("complete", "pruned", "failed")}
        return ", ".join(f"{count} {state}" for state, count in found.items() if count)

    def write(self) -> None:
        """Keep them."""
        best = self.best
        content = {
            "name": "optuna",
            "best_params": plain(best.params) if best else None,
            "best_value": best.value if best else None,
            "best_job": best.job if best else None,
            "direction": self.direction,
            "overrides": self.overrides,
            "trials": [asdict(trial) for trial in self.all],
        }
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast
        write_whole(self.path, yaml.dump(content, Dumper=dumper, sort_keys=False))


def plain(params: Mapping[str, str]) -> dict[str, Any]:
    """The values that words stand for: 0.1 is a number, 'a b' a text."""
    parser = OverridesParser.create()
    return {key: parser.parse_override(f"key={word}").value() for key, word in params.items()}


def open_trials(folder: Path, direction: str, overrides: list[str]) -> Trials:
    """The trials of a sweep's folder; none yet in a new one.

    Raises ConfigError if the folder is of a sweep that was called with other overrides.
    """
    trials = Trials(folder / FILE, direction, overrides)
    if not trials.path.exists():
        return trials
    try:
        content = yaml.safe_load(trials.path.read_text(encoding="utf-8"))
        was = content["overrides"]
        trials.all = [Trial(**trial) for trial in content["trials"]]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{trials.path} can not be read: {one_line(error)}") from error
    if was != overrides:
        raise ConfigError(
            f"{folder} is of another sweep: it has {' '.join(was)}, not {' '.join(overrides)}; "
            "give the same overrides to go on with it, or another hydra.sweep.dir"
        )
    return trials
