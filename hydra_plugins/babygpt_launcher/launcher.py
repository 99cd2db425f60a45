"""`hydra/launcher=process`: every job of a sweep in a process of its own.

No seed, memory, environment, compiled code or W&B run gets from one job to the next, and a job that
dies is a failed row and not the end of the sweep. Children are forked from this process once it has
imported what they need, so that a job does not pay for imports; nothing else of them is shared.

Hydra imports this file in a way in which dataclasses can not do without real annotations.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from hydra_plugins.babygpt_launcher.base import SweepLauncher, check_settings, check_time_limit

if TYPE_CHECKING:
    from babygpt_exp.sweep.child import Job
    from babygpt_exp.sweep.folder import Sweep


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


class ProcessLauncher(SweepLauncher):
    """Runs jobs as children, `n_jobs` at a time."""

    def __init__(
        self,
        n_jobs: int = 1,
        time_limit_seconds: float | None = None,
        gpus: Sequence[str] | None = None,
    ) -> None:
        check_settings(n_jobs=(n_jobs, 1))
        check_time_limit(time_limit_seconds)
        self.n_jobs = n_jobs
        self.manner = f"{n_jobs} at a time"
        self.time_limit_seconds = time_limit_seconds
        if gpus is None:
            gpus = visible_gpus() if n_jobs > 1 else []
        self.gpus = [str(gpu) for gpu in gpus]

    def run_jobs(self, sweep: "Sweep", jobs: "list[Job]") -> dict[int, JobReturn]:
        """As children of this process."""
        from babygpt_exp.sweep.processes import Processes

        return Processes(sweep, self.n_jobs, self.time_limit_seconds, self.gpus).run(jobs)


def visible_gpus() -> list[str]:
    """Ids of the GPUs, found without a look through CUDA, which a fork could not use afterwards."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    return [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
