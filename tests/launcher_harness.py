"""Sweeps of small tasks by any launcher, through Hydra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.test_utils.test_utils import TSweepRunner
from omegaconf import DictConfig

Task = Callable[[DictConfig], Any]


class TaskSweeps:
    """`a=0,1,...` with a task, by one launcher."""

    def __init__(
        self, option: str, class_name: str, runner: TSweepRunner, folder: Path, *always: str
    ) -> None:
        """The launcher's option and class, Hydra's fixture, where sweeps are, overrides of all."""
        self.option, self.class_name = option, class_name
        self.runner, self.folder, self.always = runner, folder, always

    def __call__(self, task: Task, num_jobs: int, *overrides: str) -> dict[int, JobReturn]:
        """Run a sweep; what became of each job."""
        found: dict[int, JobReturn] = {}

        def launch(launcher: Any, *arguments: Any, **words: Any) -> Any:
            returns = real(launcher, *arguments, **words)
            found.update(enumerate(returns))
            return [result for result in returns if result.status == JobStatus.COMPLETED]

        with pytest.MonkeyPatch.context() as patch:
            launcher_class: Any = Plugins.instance().class_name_to_class[self.class_name]
            real = launcher_class.launch
            patch.setattr(launcher_class, "launch", launch)
            runner = self.runner(
                calling_file=None,
                calling_module="hydra.test_utils.a_module",
                task_function=task,
                config_path="configs",
                config_name="compose",
                overrides=[
                    f"hydra/launcher={self.option}",
                    f"+a=range({num_jobs})",
                    *self.always,
                    *overrides,
                ],
                temp_dir=self.folder / "sweep",
            )
            with runner:
                return found


def error_of(result: JobReturn) -> str:
    """Why a job failed."""
    assert result.status == JobStatus.FAILED
    return str(result._return_value)


class Awkward(Exception):
    """An exception that can be sent and not received."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
