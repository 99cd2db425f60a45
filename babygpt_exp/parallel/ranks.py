"""The processes of a run and what they tell each other; one that is alone tells itself.

A process is a rank, as in torch.distributed: rank 0 writes the run's folder, each computes its part
of every batch. What all must agree on goes by here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from babygpt_exp.errors import (
    ConfigError,
    OutOfMemoryError,
    UserError,
    is_out_of_memory,
    one_line,
)
from babygpt_exp.hardware import HardwareConfig, ParallelConfig

if TYPE_CHECKING:
    from babygpt_exp.config import Config

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others: for the slowest validation or round of samples."""

FIRST_ERROR = "babygpt/first_error"
"""Key of the store under which the rank that failed first says why."""


LOST = "another process of this run has ended without a word"
"""What is known where a connection has broken."""


class Ranks:
    """One process alone; every answer is its own."""

    rank = 0
    world = 1
    local_rank = 0
    local_world = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what the run writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks, which ask together."""
        return [float(value) for value in values]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all. If it fails, all fail with a UserError."""
        return make()

    def from_first_of_node(self, make: Callable[[], T]) -> T:
        """What the first rank of this machine makes, for all ranks on it; else as `from_first`."""
        return make()

    def wait(self) -> None:
        """Until all ranks are here."""

    def first_error(self, error: str) -> str:
        """Why this rank fails; returns why the first one did that failed."""
        return error


@dataclass(frozen=True)
class Place:
    """Where a process is among those that were started together."""

    rank: int
    """Number of the process, from 0."""
    world: int
    """Processes in all."""
    local_rank: int
    """Number on its machine."""
    local_world: int
    """Processes on its machine."""


class Group(Ranks):
    """A rank of several."""

    def __init__(self, place: Place, store: Store) -> None:
        self.rank, self.world = place.rank, place.world
        self.local_rank, self.local_world = place.local_rank, place.local_world
        self._store = store

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks, in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all."""
        said: list[Any] = [None]
        if self.is_first:
            said = [self._tried(make)]
        dist.broadcast_object_list(said, src=0)
        value: T = self._unpacked(said[0])
        return value

    def from_first_of_node(self, make: Callable[[], T]) -> T:
        """What the first rank of this machine makes, for all ranks on it."""
        said: list[Any] = [None] * self.world
        dist.all_gather_object(said, self._tried(make) if self.local_rank == 0 else None)
        value: T = self._unpacked(said[self.rank - self.local_rank])
        return value

    def _tried(self, make: Callable[[], T]) -> tuple[T | None, str | None]:
        """A value, or why there is none: the other ranks are to hear of it."""
        self._own_error: Exception | None = None
        try:
            return make(), None
        except Exception as error:
            self._own_error = error
            return None, one_line(error)

    def _unpacked(self, said: tuple[Any, str | None]) -> Any:
        value, error = said
        if error is None:
            return value
        own = getattr(self, "_own_error", None)
        raise own if own is not None else UserError(error)

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sum([0.0])

    def first_error(self, error: str) -> str:
        """The store keeps the first one; it may be gone with the process that had it."""
        try:
            said = self._store.compare_set(FIRST_ERROR, "", f"{self.rank} {error}").decode()
        except (RuntimeError, OSError):
            return error
        rank, text = said.split(" ", 1)
        return error if text == error else f"rank {rank}: {text}"


class RankLostError(UserError):
    """A rank that is gone, as the others see it."""


@contextmanager
def faults_named() -> Iterator[None]:
    """What torch says of a connection that ended, and of memory that did, in words."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLostError(LOST) from error
        if is_out_of_memory(error):
            raise OutOfMemoryError from error
        raise


@contextmanager
def join(hardware: HardwareConfig) -> Iterator[Ranks]:
    """The ranks of a run, this process among them, for as long as it lasts."""
    place = found_place(hardware)
    if place is None or place.world == 1:
        yield Ranks()
        return
    backend = "gloo"
    if isinstance(hardware, ParallelConfig) and hardware.on_gpu:
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    yield Group(place, store)
    dist.destroy_process_group()  # not where a rank has failed: it would wait for the others


def found_place(hardware: HardwareConfig) -> Place | None:
    """The place that torchrun or SLURM gave this process; None if nobody has started others.

    Raises ConfigError if what started it does not fit the config.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not isinstance(hardware, ParallelConfig):
        if by_torchrun and int(os.environ["WORLD_SIZE"]) > 1:
            raise ConfigError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes and "
                f"hardware={hardware.name} is for one; add hardware=ddp"
            )
        return None
    if not by_torchrun:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        by_slurm = SLURMEnvironment.detect()
        if hardware.name == "slurm" and not by_slurm:
            raise ConfigError("hardware=slurm is for what srun starts; without it use hardware=ddp")
        if not by_slurm or (os.environ["SLURM_NTASKS"] == "1" and hardware.name != "slurm"):
            return None
        take_over_slurm()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    place = Place(*(int(os.environ[name]) for name in names))
    if hardware.devices not in ("auto", place.local_world):
        raise ConfigError(
            f"hardware.devices={hardware.devices}, but {place.local_world} processes were started "
            "on this machine; leave it out"
        )
    return place


def starts_ranks(config: Config) -> bool:
    """Whether the command has to start the processes of the run, since nobody else has.

    Raises ConfigError if there can not be as many, or if they can not share a batch.
    """
    hardware, place = config.hardware, found_place(config.hardware)
    if place is not None or not isinstance(hardware, ParallelConfig):
        check_batch(config, 1 if place is None else place.world)
        return False
    check_batch(config, hardware.num_processes)
    return hardware.num_processes > 1


def take_over_slurm() -> None:
    """Say what SLURM knows of its tasks in torchrun's variables."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    try:
        slurm = SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # what srun was asked for makes no sense
        raise ConfigError(one_line(error)) from error
    num_nodes = int(os.environ.get("SLURM_NNODES", "1"))
    world = slurm.world_size()
    if world % num_nodes:
        raise ConfigError(f"{world} tasks on {num_nodes} nodes: every node must have as many")
    os.environ |= {
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
        "RANK": str(slurm.global_rank()),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(slurm.local_rank()),
        "LOCAL_WORLD_SIZE": str(world // num_nodes),
        "GROUP_RANK": str(slurm.node_rank()),
    }


def check_batch(config: Config, world: int) -> None:
    """Refuse a batch that so many ranks can not share."""
    rows = config.run.batch_tokens // config.model.context
    micro = config.hardware.micro_batch_tokens
    if rows % world:
        raise ConfigError(
            f"run.batch_tokens={config.run.batch_tokens} is {rows} rows of model.context="
            f"{config.model.context}, which {world} processes can not share evenly"
        )
    if micro is not None and (rows // world * config.model.context) % micro:
        raise ConfigError(
            f"hardware.micro_batch_tokens={micro} must divide the {rows // world} rows of "
            f"model.context={config.model.context} that each process has"
        )
    if world > 1 and config.data.name == "eir":
        raise ConfigError("data=eir is for one process: its protocol has one place for all clients")
