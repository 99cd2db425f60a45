"""A search of the least of a parabola, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from babygpt_exp.search.sampler import Sampler
from babygpt_exp.search.search import Search
from babygpt_exp.search.space import Space
from babygpt_exp.search.trials import FILE, Trial, open_trials

Task = Callable[[dict[str, Any]], Any]
"""A job: what it returns for the values that it is given."""
SPACE = ("x=interval(-10,10)", "kind=a,b")
SAMPLER = Sampler("tpe", seed=1, num_startup_trials=5, direction="minimize")


def parabola(values: dict[str, Any]) -> float:
    """Lowest at x=3 and kind=b."""
    return float((values["x"] - 3) ** 2 + (values["kind"] == "a"))


def space(*words: str) -> Space:
    """The space of some overrides."""
    return Space(OverridesParser.create().parse_overrides(list(words)))


def launcher(task: Task, batches: list[int]) -> Callable[..., list[JobReturn]]:
    """Runs jobs as Hydra's launcher does; notes how many it was given together."""

    def run(overrides: Sequence[str]) -> JobReturn:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        try:
            result.return_value = task({word.key_or_group: word.value() for word in parsed})
        except Exception as error:
            result.status, result.return_value = JobStatus.FAILED, error
        return result

    def launch(jobs: list[list[str]], number: int) -> list[JobReturn]:
        assert number == sum(batches)
        batches.append(len(jobs))
        return [run(overrides) for overrides in jobs]

    return launch


class Folder:
    """A sweep's folder, and searches in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[int] = []

    def search(
        self,
        task: Task,
        count: int,
        *,
        overrides: Sequence[str] = SPACE,
        batch: int = 1,
        sampler: Sampler = SAMPLER,
    ) -> list[Trial]:
        """Run a sweep to its end; its trials."""
        self.batches = []
        searched = space(*overrides)
        trials = open_trials(self.path, sampler.direction, searched.typed)
        Search(searched, sampler, trials, count, batch).run(launcher(task, self.batches))
        return self.trials

    @property
    def content(self) -> dict[str, Any]:
        """optimization_results.yaml."""
        content: dict[str, Any] = yaml.safe_load((self.path / FILE).read_text())
        return content

    @property
    def trials(self) -> list[Trial]:
        """The trials that it has."""
        return [Trial(**trial) for trial in self.content["trials"]]
