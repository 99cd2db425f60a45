"""A job in a process of its own that begins with nothing: sent by a launcher, run where it arrives.

A forked child knows all that its parent does. One that is started on another machine knows what is
in its parcel: the composed config, the task, what was typed, and the folder to be in. Whoever opens
the parcel there starts `python -m babygpt_exp.sweep`, which is `main` below.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict

from babygpt_exp.errors import UserError
from babygpt_exp.folder import locked
from babygpt_exp.job import TYPED
from babygpt_exp.parent import end_with_parent
from babygpt_exp.sweep.child import Job
from babygpt_exp.sweep.watched import Watched, run_and_leave

SENT_VARIABLES = ("AWS_", "BABYGPT_", "HF_", "HYDRA_", "OMP_WAIT_POLICY", "WANDB_", "XDG_CACHE_")
"""How the names of environment variables begin that a job has as its launcher has them."""

PREDECESSOR_SECONDS = 120.0
"""How long a job that is started again waits for its first process to let go of the folder: that
may be writing its checkpoint, and a file system of a cluster keeps a lock for as long as 90 s."""


@dataclass(frozen=True)
class Content:
    """What the process of a job needs to know."""

    config: DictConfig
    """The job's, composed, with Hydra's own part."""
    task: TaskFunction
    """What to run."""
    context: HydraContext
    """Hydra's callbacks."""
    state: dict[str, Any]
    """Hydra's global state."""
    typed: list[str]
    """Arguments of the launcher, those of the whole sweep."""

    def run(self) -> JobReturn:
        """Run the job."""
        TYPED[:] = self.typed
        Singleton.set_state(self.state)
        setup_globals()
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


@dataclass(frozen=True)
class Parcel:
    """A job as it is sent."""

    number: int
    """Its place in the sweep."""
    content: bytes
    """A Content, pickled."""
    folder: Path
    """The job's, absolute."""
    cwd: Path
    """Where the launcher runs: paths in configs are relative to it."""
    variables: Mapping[str, str]
    """Environment variables that the job has as the launcher has them."""
    num_threads: int | None
    """Threads for arithmetic; None leaves it to the libraries."""


def pack(
    job: Job, context: HydraContext, task: TaskFunction, num_threads: int | None = None
) -> Parcel:
    """The parcel of a job."""
    import cloudpickle  # type: ignore[import-untyped]

    state = Singleton.get_state()
    kept = {JobRuntime, VersionBase}
    state["instances"] = {kind: one for kind, one in state["instances"].items() if kind in kept}
    content = Content(untyped(job.config), task, context, state, sys.argv[1:])
    variables = {n: value for n, value in os.environ.items() if n.startswith(SENT_VARIABLES)}
    own = [path for path in sys.path if not path.startswith((sys.prefix, sys.base_prefix))]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, own))
    return Parcel(
        number=job.number,
        content=cloudpickle.dumps(content),
        folder=job.folder.absolute(),
        cwd=Path.cwd(),
        variables=variables,
        num_threads=num_threads,
    )


def untyped(config: DictConfig) -> DictConfig:
    """A config whose launcher and sweeper are plain values: Hydra imports the files of plugins in a
    way that leaves more than one class of a name, and pickle wants the one."""
    config = config.copy()
    with open_dict(config):
        for name in ("launcher", "sweeper"):
            values = OmegaConf.to_container(config.hydra[name], enum_to_str=True)
            config.hydra[name] = OmegaConf.create(values)
    return config


class Spawned(Watched):
    """An interpreter of its own that runs what is in a parcel."""

    def __init__(self, parcel: Parcel, *, piped: bool, again: bool = False) -> None:
        """Start it. Its output comes by a pipe if `piped`. With `again` there was one before it,
        which may still have the job's folder."""
        super().__init__()
        environment = {**os.environ, **parcel.variables}
        if parcel.num_threads is not None:
            environment["OMP_NUM_THREADS"] = str(parcel.num_threads)
        arguments = [str(os.getpid()), str(self._result.fileno())]
        if again:
            arguments.append(str(parcel.folder))
        with tempfile.TemporaryFile() as content:
            content.write(parcel.content)
            content.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "babygpt_exp.sweep", *arguments],
                cwd=parcel.cwd,
                env=environment,
                stdin=content,
                stdout=subprocess.PIPE if piped else None,
                stderr=subprocess.STDOUT if piped else None,
                pass_fds=[self._result.fileno()],
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        if self._process.stdout is not None:
            self.output = os.dup(self._process.stdout.fileno())
            self._process.stdout.close()
            os.set_blocking(self.output, False)

    def _exit_code(self) -> int:
        return self._process.wait()


def main() -> None:
    """`python -m babygpt_exp.sweep PARENT FILE [FOLDER]`: the job whose content is the standard
    input; its result goes into an open file. The folder is one that may have to be waited for."""
    parent, handle, *folder = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # engines block some in what they start
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a scheduler means them for who started this
    end_with_parent(int(parent))
    content: Content = pickle.load(sys.stdin.buffer)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for path in folder:
        wait_for(Path(path), PREDECESSOR_SECONDS)
    with os.fdopen(int(handle), "wb") as file:
        run_and_leave(content.run, file)


def wait_for(folder: Path, seconds: float) -> None:
    """Return when no process has a run's folder, or has kept it for some time."""
    deadline = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < deadline:
        with suppress(UserError), locked(folder, lambda words: None):
            return
