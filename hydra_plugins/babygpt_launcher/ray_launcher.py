"""`hydra/launcher=ray`: the jobs of a sweep on a Ray cluster, or on a Ray of this machine.

What a job finds is what it finds with `hydra/launcher=process`, but for what is shared by forking:
it imports for itself, and has a streamer of its own.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from hydra_plugins.babygpt_launcher.base import (
    SweepLauncher,
    check_settings,
    check_time_limit,
    need,
)

if TYPE_CHECKING:
    from babygpt_exp.sweep.child import Job
    from babygpt_exp.sweep.folder import Sweep


@dataclass
class RayLauncherConf:
    """Settings of the launcher."""

    _target_: str = "hydra_plugins.babygpt_launcher.ray_launcher.RayLauncher"
    address: str | None = None
    """Cluster to join: `auto`, or `HOST:PORT` of its head. Null starts a Ray on this machine, for
    the time of the sweep."""
    num_cpus: float = 1
    """Cores of each job; as many run at a time as there is room for."""
    num_gpus: float = 0
    """GPUs of each job. A job without any sees none."""
    resources: dict[str, float] = field(default_factory=dict)
    """What else each job takes, by the names that the nodes were started with."""
    n_jobs: int | None = None
    """Jobs at a time; null is as many as there is room for."""
    max_retries: int = 3
    """How often a job goes on elsewhere whose node has died or was taken away."""
    time_limit_seconds: float | None = None
    """How long a job may run until it is stopped, with a checkpoint; null is any time."""
    local_cpus: int | None = None
    """Cores that a Ray on this machine gives out; null is all that this process may use."""
    local_gpus: int | None = None
    """GPUs that a Ray on this machine gives out; null is all."""


ConfigStore.instance().store(
    group="hydra/launcher", name="ray", node=RayLauncherConf, provider="babygpt_launcher"
)


class RayLauncher(SweepLauncher):
    """Runs jobs on Ray."""

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: dict[str, float] | None = None,
        n_jobs: int | None = None,
        max_retries: int = 3,
        time_limit_seconds: float | None = None,
        local_cpus: int | None = None,
        local_gpus: int | None = None,
    ) -> None:
        need("ray", "ray", "ray")
        check_settings(
            num_cpus=(num_cpus, 0),
            num_gpus=(num_gpus, 0),
            n_jobs=(n_jobs, 1),
            max_retries=(max_retries, 0),
            local_cpus=(local_cpus, 1),
            local_gpus=(local_gpus, 0),
        )
        check_time_limit(time_limit_seconds)
        self.address, self.local = address, (local_cpus, local_gpus)
        self.num_cpus, self.num_gpus, self.resources = num_cpus, num_gpus, dict(resources or {})
        self.n_jobs, self.max_retries = n_jobs, max_retries
        self.time_limit_seconds = time_limit_seconds
        self.manner = f"on Ray{'' if address is None else f' at {address}'}"

    def run_jobs(self, sweep: "Sweep", jobs: "list[Job]") -> dict[int, JobReturn]:
        """As actors of Ray."""
        from babygpt_exp.sweep.ray_jobs import RayJobs, Resources, check_room, connect
        from babygpt_exp.sweep.spawned import pack

        resources = Resources(self.num_cpus, self.num_gpus, self.resources)
        connect(self.address, *self.local)
        check_room(resources, self.address)
        threads: dict[str, Any] = {"num_threads": max(1, int(self.num_cpus))}
        parcel = partial(pack, context=self.hydra_context, task=self.task_function, **threads)
        ray_jobs = RayJobs(
            sweep, parcel, resources, self.n_jobs, self.max_retries, self.time_limit_seconds
        )
        return ray_jobs.run(jobs)
