"""Starting the processes of a run on this machine, by torch's own torchrun, and their end."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from babygpt_exp.command import importing_torch
from babygpt_exp.config import Config
from babygpt_exp.data.shared import Address, Key, addresses, know
from babygpt_exp.errors import RunInterrupted, UserError, death, exit_status, one_line
from babygpt_exp.folder import RunFolder
from babygpt_exp.hardware import ParallelConfig
from babygpt_exp.job import Job
from babygpt_exp.parallel.ranks import LOST
from babygpt_exp.parent import end_with_parent
from babygpt_exp.pruner import PrunedValue, RunPruned
from babygpt_exp.saved import read_summary

VARIABLE = "BABYGPT_RUN"
"""Environment variable in which a process that is started here finds what it is to do."""

SHUTDOWN_SECONDS = 30
"""How long ranks may take to end when they are asked to, or when one of them has failed."""


@dataclass(frozen=True)
class Task:
    """What the processes of a run are told."""

    config: Config
    """What to train."""
    job: Job
    """Where."""
    resume: bool
    """Whether to go on with the run that is there."""
    streamers: list[tuple[Key, Address]]
    """Those of the sweep that the run belongs to."""
    answer: Path
    """File in which the first rank says how it ended, as JSON."""
    parent: int
    """Process id of the one that has started them."""


def start(config: Config, job: Job, *, resume: bool) -> float:
    """Run a job in as many processes as its config asks for; returns its bits a byte.

    Raises UserError with the error of the rank that failed first, which is in summary.json too;
    RunInterrupted if somebody stopped them.
    """
    hardware = config.hardware
    assert isinstance(hardware, ParallelConfig)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it ourselves
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=hardware.num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        run_id=str(uuid.uuid4()),
        max_restarts=0,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        task = Task(config, job, resume, addresses(), answer, os.getpid())
        failures: Mapping[int, ProcessFailure] = {}
        stopped_by = 0
        try:
            with told(task):
                elastic_launch(launch, sys.executable)("-P", "-m", "babygpt_exp.parallel")
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as error:
            stopped_by = int(error.sigval)
        said = json.loads(answer.read_text()) if answer.exists() else {}
    return outcome(said, failures, stopped_by, RunFolder(job.folder))


@contextmanager
def told(task: Task) -> Iterator[None]:
    """Environment of the processes: their task, where this package is, and no network but ours."""
    before = os.environ.copy()
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    os.environ |= {VARIABLE: base64.b64encode(pickle.dumps(task)).decode(), "PYTHONPATH": path}
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def outcome(
    said: dict[str, Any],
    failures: Mapping[int, ProcessFailure],
    stopped_by: int,
    folder: RunFolder,
) -> float:
    """What the first rank answered; if it could not, what is known of those that died."""
    if "value" in said:
        return PrunedValue(said["value"]) if said["is_pruned"] else float(said["value"])
    error, code = said.get("error", ""), said.get("exit_code", UserError.exit_code)
    if code > 128 or (stopped_by and not error):
        number = code - 128 if code > 128 else stopped_by
        raise RunInterrupted(error or f"killed after {signal.Signals(number).name}", number)
    if not error or LOST in error:
        error = died(failures) or error or "its processes ended without a word"
        summary = read_summary(folder)
        if summary and summary["status"] != "completed":
            folder.end_summary(summary | {"status": "failed", "error": error})
    failed = UserError(error)
    failed.exit_code = code
    raise failed


def died(failures: Mapping[int, ProcessFailure]) -> str:
    """The first rank that was killed, or else the first that failed; "" if none did."""
    killed = [(rank, failure) for rank, failure in failures.items() if failure.exitcode < 0]
    killed = [pair for pair in killed if pair[1].exitcode != -signal.SIGTERM] or killed
    for rank, failure in killed or failures.items():
        was = "was " if failure.exitcode < 0 else ""
        return f"rank {rank} {was}{death(failure.exitcode)}"
    return ""


def main() -> None:
    """What each process does that `start` has started."""
    with importing_torch():
        from babygpt_exp.run import run

    task: Task = pickle.loads(base64.b64decode(os.environ.pop(VARIABLE)))
    end_with_parent(task.parent)
    know(task.streamers)
    said: dict[str, Any]
    code = 0
    try:
        said = {"value": run(task.config, task.job, resume=task.resume), "is_pruned": False}
    except RunPruned as error:
        print(one_line(error), flush=True)
        said = {"value": error.bits_per_byte, "is_pruned": True}
    except (UserError, OSError) as error:
        code = exit_status(error)
        said = {"error": one_line(error), "exit_code": code}
    if os.environ["RANK"] == "0":
        task.answer.write_text(json.dumps(said))
    sys.exit(code)
