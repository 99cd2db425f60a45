"""The jobs of a sweep on Ray: each has an actor to itself, wherever there is room for it."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, filter_overrides

from babygpt_exp.errors import ConfigError, one_line
from babygpt_exp.sweep.child import Job
from babygpt_exp.sweep.folder import Sweep
from babygpt_exp.sweep.node import News, Supervisor, Witness
from babygpt_exp.sweep.processes import TICK_SECONDS, Signals, failure, num_cores, outcome, tell
from babygpt_exp.sweep.spawned import Parcel
from babygpt_exp.sweep.watched import GRACE_SECONDS

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a Ray of this machine alone: jobs send nothing but lines of text through it."""

ANSWER_SECONDS = 15.0
"""How much later than its job a supervisor may answer that this has ended."""


@dataclass(frozen=True)
class Resources:
    """What each job takes."""

    num_cpus: float
    """Cores, also threads of its arithmetic."""
    num_gpus: float
    """GPUs; a job without any sees none."""
    custom: dict[str, float]
    """By names that the cluster's nodes were started with."""

    @property
    def options(self) -> dict[str, Any]:
        """For Ray."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": self.custom}

    @property
    def named(self) -> dict[str, float]:
        """As Ray names them in its nodes."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.custom}


@dataclass
class Remote:
    """A job and its actor."""

    job: Job
    actor: Any
    asked: ObjectRef[Any]
    """What was asked of the actor and is not answered yet."""
    attempt: int
    """The how many-th actor of the job it is, from 0."""
    started: float | None = None
    """When it began to run; None as long as it waits for a place."""
    stop_at: float | None = None
    """When it is ended if it does not answer; None if it was not asked to stop."""


@dataclass
class RayJobs:
    """Runs the jobs of a sweep as actors of a Ray that `connect` has connected to."""

    sweep: Sweep
    """Where they belong."""
    pack: Callable[[Job], Parcel]
    """Makes of a job what is sent."""
    resources: Resources
    """What each takes."""
    n_jobs: int | None
    """Jobs at a time; None is as many as there is room for."""
    max_retries: int
    """How often a job is started again whose node or actor has died."""
    time_limit_seconds: float | None
    """How long a job may run."""
    _to_run: deque[tuple[Job, int]] = field(default_factory=deque, init=False)
    _remotes: list[Remote] = field(default_factory=list, init=False)
    _returns: dict[int, JobReturn] = field(default_factory=dict, init=False)

    def run(self, jobs: Iterable[Job]) -> dict[int, JobReturn]:
        """What became of each job, by its number.

        Raises RunInterrupted on Ctrl-C and SIGTERM, when the jobs that ran have ended; ConfigError
        if a node does not see the sweep's folder.
        """
        import ray

        self._to_run.extend((job, 0) for job in jobs)
        self._witness = Witness.write(self.sweep.folder)
        num_left = 0
        with Signals() as signals:
            try:
                while self._remotes or (self._to_run and not signals.number):
                    while self._to_run and self._has_room() and not signals.number:
                        self._send(*self._to_run.popleft())
                    asked = {remote.asked: remote for remote in self._remotes}
                    if asked:  # there are none where a signal has come just now
                        for answer in ray.wait(list(asked), timeout=TICK_SECONDS)[0]:
                            self._answered(asked[answer])
                    if signals.fresh():
                        num_left += self._drop_waiting()
                        self._ask_to_stop(signals.number)
                    self._end_deaf()
            finally:
                self._drop(self._remotes)
                self._witness.path.unlink(missing_ok=True)
        self.sweep.refresh()
        signals.leave(self.sweep.folder, num_left + len(self._to_run))
        return self._returns

    def _has_room(self) -> bool:
        return self.n_jobs is None or len(self._remotes) < self.n_jobs

    def _send(self, job: Job, attempt: int) -> None:
        """Have an actor for a job; it comes when there is room, and begins with the job."""
        import ray

        kind: Any = ray.remote(Supervisor)
        actor = kind.options(max_restarts=0, **self.resources.options).remote()
        self._remotes.append(Remote(job, actor, self._begin(actor, job, attempt), attempt))

    def _begin(self, actor: Any, job: Job, attempt: int) -> Any:
        again = attempt > 0
        return actor.begin.remote(self.pack(job), self._witness, self.time_limit_seconds, again)

    def _answered(self, remote: Remote) -> None:
        """Take what an actor has answered, and ask it for more."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

        try:
            answer = ray.get(remote.asked)
        except ActorUnavailableError:  # for now; if it stays so, Ray says that it has died
            time.sleep(TICK_SECONDS)
            if remote.started is None:
                remote.asked = self._begin(remote.actor, remote.job, remote.attempt)
                return
            answer = News([], None)
        except RayTaskError as error:
            self._failed(remote, one_line(error.cause))
            return
        except RayError as error:
            self._lost(remote, why_lost(error))
            return
        if isinstance(answer, str):
            raise ConfigError(answer)
        if remote.started is None:
            remote.started = time.monotonic()
            log.info(f"#{remote.job.number} : {' '.join(filter_overrides(remote.job.overrides))}")
        if answer is not None:
            tell(remote.job.number, answer.lines)
            if answer.end is not None:
                self._drop([remote])
                seconds = time.monotonic() - remote.started
                self._returns[remote.job.number] = outcome(
                    self.sweep, remote.job, answer.end, seconds
                )
                return
        remote.asked = remote.actor.listen.remote()

    def _lost(self, remote: Remote, why: str) -> None:
        """An actor is no more, and its job neither: once more, from its checkpoint."""
        job, num_times = remote.job, remote.attempt + 1
        if num_times > self.max_retries or remote.stop_at is not None:
            self._failed(remote, f"lost {num_times} times, {why}")
            return
        log.warning(f"#{job.number} : lost, {why}; again ({num_times} of {self.max_retries})")
        self._drop([remote])
        self._to_run.appendleft((job, num_times))

    def _failed(self, remote: Remote, reason: str) -> None:
        """A job has failed and could not say so itself."""
        job = remote.job
        self._drop([remote])
        error = self.sweep.record_death(job.folder, job.overrides, reason, reason)
        self._returns[job.number] = failure(job, error)
        log.error(f"#{job.number} : {error}")

    def _drop_waiting(self) -> int:
        """Take back jobs that still wait for a place; how many they were."""
        waiting = [remote for remote in self._remotes if remote.started is None]
        self._drop(waiting)
        return len(waiting)

    def _ask_to_stop(self, number: int) -> None:
        """Send all jobs a signal."""
        for remote in self._remotes:
            remote.actor.stop.remote(number)
            later = time.monotonic() + GRACE_SECONDS + ANSWER_SECONDS
            remote.stop_at = remote.stop_at or later

    def _end_deaf(self) -> None:
        """End those that were asked to stop and are not heard of any more."""
        for remote in list(self._remotes):
            if remote.stop_at is not None and time.monotonic() > remote.stop_at:
                self._failed(remote, "its node does not answer any more")

    def _drop(self, remotes: list[Remote]) -> None:
        """End actors; a job that runs in one saves a checkpoint and ends too."""
        import ray

        for remote in list(remotes):
            ray.kill(remote.actor)
            self._remotes.remove(remote)


def why_lost(error: Exception) -> str:
    """Of what Ray says of an actor that is no more, the part that says why."""
    text = str(error).strip()
    if "creation task" in text:  # with a traceback
        return one_line(Exception(text.splitlines()[-1]))
    found = re.search(r"is dead because (.*?)\.(\s|$)", text, re.DOTALL)
    return one_line(Exception(found[1])) if found else one_line(error)


def connect(address: str | None, local_cpus: int | None, local_gpus: int | None) -> None:
    """Connect to a cluster, or start a Ray on this machine, until this process ends.

    Raises ConfigError if there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        # Whatever its name says: with 0 a Ray is for one machine, and listens on 127.0.0.1 only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else a file in HOME
    if "RAY_AUTH_TOKEN" in os.environ:  # Ray finds that out itself, some of it too late to send it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(
            address="local",
            num_cpus=local_cpus or num_cores(),
            num_gpus=local_gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise ConfigError(
            f"no Ray at hydra.launcher.address={address}: {one_line(error)}"
        ) from error


def check_room(resources: Resources, address: str | None) -> None:
    """Look whether a node has room for a job: ConfigError if a Ray of this machine has not, a word
    about it if a cluster has not now, which may get more nodes."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    offers = [node["Resources"] for node in nodes if node["Alive"]]
    for name, wanted in resources.named.items():
        most = max((offer.get(name, 0) for offer in offers), default=0)
        if wanted <= most:
            continue
        words = f"a job takes {wanted:g} {name} and no node has more than {most:g}"
        if address is None:
            raise ConfigError(f"{words}: see hydra.launcher.num_cpus, num_gpus and resources")
        log.warning(f"{words}: jobs wait until one joins")
