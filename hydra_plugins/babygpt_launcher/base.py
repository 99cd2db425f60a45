"""What the launchers of sweeps share: which jobs to run, in which folders, and what is told of it.

Hydra imports this file at every start, and twice: what is slow, or must be one, is in
babygpt_exp.sweep.
"""

from __future__ import annotations

import importlib.util
import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from babygpt_exp.sweep.child import Job
    from babygpt_exp.sweep.folder import Sweep

log = logging.getLogger(__name__)


class SweepLauncher(Launcher):
    """Runs the jobs of a sweep that are not complete; how, is a launcher's own."""

    manner: str
    """How jobs run, for people: `2 at a time`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's: what to run, and with what."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        typed = Path(str(config.hydra.sweep.dir), "multirun.yaml")
        # The sweeper writes it before `launch` can see that the folder is of another sweep.
        self._typed_before = typed.read_bytes() if typed.exists() else None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and wait for them; what became of each, in their order.

        Jobs that are complete already are not run. Raises ConfigError if the folder is of another
        sweep; RunInterrupted on Ctrl-C and SIGTERM.
        """
        from babygpt_exp.errors import ConfigError
        from babygpt_exp.sweep.child import Job
        from babygpt_exp.sweep.folder import open_sweep

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        sweep = open_sweep(Path(str(self.config.hydra.sweep.dir)), self.task_function)
        returns: dict[int, JobReturn] = {}
        jobs: list[Job] = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            config = self._compose(number, list(overrides))
            folder = Path(str(config.hydra.run.dir))
            words = plain(config.hydra.overrides.task)
            try:
                value = sweep.finished(folder, words)
            except ConfigError:
                if self._typed_before is not None:
                    (sweep.folder / "multirun.yaml").write_bytes(self._typed_before)
                raise
            if value is None:
                jobs.append(Job(number, config, folder, words, partial(self._run, config)))
            else:
                returns[number] = JobReturn(overrides=words, status=JobStatus.COMPLETED)
                returns[number].return_value = value
        found = f", {len(returns)} complete already" if returns else ""
        log.info(f"{len(job_overrides)} jobs in {sweep.folder}, {self.manner}{found}")
        try:
            if jobs:
                returns |= self.run_jobs(sweep, jobs)
        finally:
            if (sweep.folder / "report.html").exists():
                log.info(f"report: {sweep.folder / 'report.html'}")
        return [returns[number] for number in sorted(returns)]

    @abstractmethod
    def run_jobs(self, sweep: Sweep, jobs: list[Job]) -> dict[int, JobReturn]:
        """Run jobs and wait for them; what became of each, by its number.

        Raises RunInterrupted on Ctrl-C and SIGTERM.
        """

    def _compose(self, number: int, overrides: list[str]) -> DictConfig:
        """The config of a job; `hydra.run.dir` is its folder, as that of a single run."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.run.dir = str(Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)))
        return config

    def _run(self, config: DictConfig) -> JobReturn:
        """What the process of a job does."""
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def plain(words: Any) -> list[str]:
    """Overrides as a list."""
    found = OmegaConf.to_container(words)
    assert isinstance(found, list)
    return [str(word) for word in found]


def need(module: str, option: str, extra: str) -> None:
    """Raise ConfigError unless a module that an option is built on is installed."""
    from babygpt_exp.errors import ConfigError

    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"hydra/launcher={option} needs {module}: pip install 'babygpt-exp[{extra}]'"
        )


def check_settings(**least: tuple[float | None, float]) -> None:
    """Raise ConfigError for settings of a launcher below their least value; None is any."""
    from babygpt_exp.errors import ConfigError

    for name, (value, minimum) in least.items():
        if value is not None and value < minimum:
            raise ConfigError(f"hydra.launcher.{name}={value} must be at least {minimum:g}")


def check_time_limit(seconds: float | None) -> None:
    """Raise ConfigError for a time limit that no job can keep."""
    from babygpt_exp.errors import ConfigError

    if seconds is not None and seconds <= 0:
        raise ConfigError(f"hydra.launcher.time_limit_seconds={seconds} must be above 0")
