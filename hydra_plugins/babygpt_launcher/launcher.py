"""`hydra/launcher=process`: every job of a sweep in a process of its own.

No seed, memory, environment, compiled code or W&B run gets from one job to the next, and a job that
dies is a failed row and not the end of the sweep. Children are forked from this process once it has
imported what they need, so that a job does not pay for imports; nothing else of them is shared.

Hydra imports this file at every start, and twice: what is slow, or must be one, is in
babygpt_exp.sweep.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


@dataclass
class ProcessLauncherConf:
    """Settings of the launcher."""

    _target_: str = "hydra_plugins.babygpt_launcher.launcher.ProcessLauncher"
    n_jobs: int = 1
    """Jobs at a time; each has its share of the cores."""
    time_limit_seconds: float | None = None
    """How long a job may take until it is stopped, with a checkpoint; null is any time."""
    gpus: list[str] | None = None
    """Ids of GPUs to give out, one a job. Null takes what CUDA_VISIBLE_DEVICES names or the machine
    has where several jobs run at a time, and leaves all of them to a single one."""


ConfigStore.instance().store(
    group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="babygpt_launcher"
)


class ProcessLauncher(Launcher):
    """Runs jobs as children, `n_jobs` at a time."""

    def __init__(
        self,
        n_jobs: int = 1,
        time_limit_seconds: float | None = None,
        gpus: Sequence[str] | None = None,
    ) -> None:
        from babygpt_exp.errors import ConfigError

        if n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs} must be at least 1")
        if time_limit_seconds is not None and time_limit_seconds <= 0:
            raise ConfigError(
                f"hydra.launcher.time_limit_seconds={time_limit_seconds} must be above 0"
            )
        self.n_jobs = n_jobs
        self.time_limit_seconds = time_limit_seconds
        if gpus is None:
            gpus = visible_gpus() if n_jobs > 1 else []
        self.gpus = [str(gpu) for gpu in gpus]

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
        sweep; RunInterrupted on Ctrl-C and SIGTERM, when the jobs that ran have ended.
        """
        from babygpt_exp.errors import ConfigError
        from babygpt_exp.sweep.child import Job
        from babygpt_exp.sweep.folder import open_sweep
        from babygpt_exp.sweep.processes import Processes

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
        log.info(f"{len(job_overrides)} jobs in {sweep.folder}, {self.n_jobs} at a time{found}")
        processes = Processes(sweep, self.n_jobs, self.time_limit_seconds, self.gpus)
        try:
            returns |= processes.run(jobs)
        finally:
            if (sweep.folder / "report.html").exists():
                log.info(f"report: {sweep.folder / 'report.html'}")
        return [returns[number] for number in sorted(returns)]

    def _compose(self, number: int, overrides: list[str]) -> DictConfig:
        """The config of a job. `hydra.run.dir` is its folder: more processes of the job, which
        Lightning starts, are single runs there."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.run.dir = str(Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)))
        return config

    def _run(self, config: DictConfig) -> JobReturn:
        """What a child does."""
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


def visible_gpus() -> list[str]:
    """Ids of the GPUs, found without a look through CUDA, which a fork could not use afterwards."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    return [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
