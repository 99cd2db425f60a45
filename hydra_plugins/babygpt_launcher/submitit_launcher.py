"""`hydra/launcher=submitit_slurm`: the jobs of a sweep as jobs of SLURM, by submitit.

Settings have the names that Hydra's own plugin for submitit gives them. A job whose time is up, or
that is preempted, saves a checkpoint, is put back in line, and goes on from there.
"""

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from hydra_plugins.babygpt_launcher.base import SweepLauncher, check_settings, need

if TYPE_CHECKING:
    from babygpt_exp.sweep.child import Job
    from babygpt_exp.sweep.folder import Sweep


class ExecutorName(Enum):
    """Who runs jobs."""

    slurm = "slurm"
    local = "local"


@dataclass
class SubmititLauncherConf:
    """Settings of the launcher; null leaves one to the cluster."""

    _target_: str = "hydra_plugins.babygpt_launcher.submitit_launcher.SubmititLauncher"
    executor: ExecutorName = ExecutorName.slurm
    """`local` runs all jobs at once on this machine, to try what would run on SLURM."""
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    """For scripts, logs and results; `%j` is the id of a job."""
    name: str = "${hydra.job.name}"
    """Name of the jobs in SLURM's lists."""
    timeout_min: int = 60
    """How long a job may run at once, in minutes."""
    max_num_timeout: int = 3
    """How often a job whose time is up is put back in line; one that was preempted always is."""
    signal_delay_s: int = 120
    """How long before its time is up a job is told; it stops and saves within seconds."""
    array_parallelism: int = 256
    """Jobs at a time."""
    nodes: int = 1
    """Nodes of each job; more than one is for hardware=slurm."""
    tasks_per_node: int = 1
    """Processes on each of them; more than one is for hardware=slurm."""
    cpus_per_task: int | None = None
    """Cores of each process, also threads of its arithmetic."""
    gpus_per_node: int | None = None
    """GPUs on each node."""
    mem_gb: int | None = None
    """Memory on each node."""
    stderr_to_stdout: bool = False
    """Whether a job has one log, not two."""
    partition: str | None = None
    """sbatch's, as are the following."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    comment: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_cpu: str | None = None
    mem_per_gpu: str | None = None
    setup: list[str] | None = None
    """Commands of the batch script before the job, such as `module load cuda`."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Whatever else sbatch knows: `{mail-type: FAIL}`."""


ConfigStore.instance().store(
    group="hydra/launcher",
    name="submitit_slurm",
    node=SubmititLauncherConf,
    provider="babygpt_launcher",
)


class SubmititLauncher(SweepLauncher):
    """Runs jobs by submitit."""

    def __init__(
        self,
        executor: ExecutorName,
        submitit_folder: str,
        max_num_timeout: int,
        **parameters: Any,
    ) -> None:
        need("submitit", "submitit_slurm", "slurm")
        for name, least in (("timeout_min", 1), ("nodes", 1), ("tasks_per_node", 1)):
            check_settings(**{name: (parameters[name], least)})
        check_settings(max_num_timeout=(max_num_timeout, 0))
        self.executor, self.submitit_folder = executor.value, submitit_folder
        self.max_num_timeout = max_num_timeout
        self.parameters = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in parameters.items()
            if value is not None
        }
        self.manner = f"by submitit, {self.executor}"

    def run_jobs(self, sweep: "Sweep", jobs: "list[Job]") -> dict[int, JobReturn]:
        """As one array of SLURM's jobs."""
        from babygpt_exp.sweep.spawned import pack
        from babygpt_exp.sweep.submitit_jobs import SubmititJobs

        threads: dict[str, Any] = {"num_threads": self.parameters.get("cpus_per_task")}
        parcel = partial(pack, context=self.hydra_context, task=self.task_function, **threads)
        return SubmititJobs(
            sweep,
            parcel,
            self.executor,
            self.submitit_folder,
            self.max_num_timeout,
            self.parameters,
        ).run(jobs)
