"""What makes runs a sweep: jobs that are complete stay, jobs that died are told of, and all share a
streamer for each set of sources.

A launcher knows nothing of models, and this module nothing of processes.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.types import TaskFunction
from omegaconf import DictConfig

from babygpt_exp.command import importing_torch
from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.folder import RunFolder
from babygpt_exp.pruner import PrunedValue, is_pruned
from babygpt_exp.saved import read_summary
from babygpt_exp.summary import STILL_RUNNING, first_summary

if TYPE_CHECKING:
    from babygpt_exp.data.shared import SharedStreamers

PRELOADED = (
    "babygpt_exp.train",
    "babygpt_exp.report.write",
    "babygpt_exp.report.page",
    "pandas",
    "wandb",
)
"""What every job imports: done once, in the process that they are forked from."""


class Sweep:
    """A sweep's folder, as a launcher sees it; this one is of jobs that are no runs of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self, folder: Path, overrides: list[str]) -> float | None:
        """What a job has returned that is complete; None if it has to run.

        Raises ConfigError if the folder is of a job with other overrides.
        """
        return None

    def prepare(self, config: DictConfig) -> None:
        """Before a job with this config is forked: import what it needs, start its streamer."""

    def look_after_streamers(self) -> None:
        """Start streamers again that have ended."""

    def record_death(self, folder: Path, overrides: list[str], reason: str, end: str) -> str:
        """Write down that a job has ended without a result; returns why, in words.

        `reason` is why it was stopped ("" if nobody did that), `end` is how its process ended.
        """
        return reason or end

    def refresh(self) -> None:
        """Bring what is told of the whole sweep up to date."""


class RunSweep(Sweep):
    """A sweep of training runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.streamers: SharedStreamers | None = None

    def finished(self, folder: Path, overrides: list[str]) -> float | None:
        """The final bits a byte of a run that is complete."""
        return finished(folder, overrides)

    def prepare(self, config: DictConfig) -> None:
        """Import all of the package, and share a streamer. A config that is no good is the job's
        to tell of."""
        with importing_torch():
            for name in PRELOADED:
                importlib.import_module(name)
            from babygpt_exp.config import load
            from babygpt_exp.data.shared import SharedStreamers

        if self.streamers is None:
            self.streamers = SharedStreamers(self.folder)
        composed = config.copy()
        composed.__delattr__("hydra")
        try:
            self.streamers.serve(load(composed).data)
        except UserError:
            return

    def look_after_streamers(self) -> None:
        """Those that serve the jobs."""
        if self.streamers is not None:
            self.streamers.restart_ended()

    def record_death(self, folder: Path, overrides: list[str], reason: str, end: str) -> str:
        """In summary.json: its status, and in the report."""
        summary = read_summary(RunFolder(folder)) or first_summary(None, overrides)
        own = None if summary["error"] == STILL_RUNNING else summary["error"]
        if reason or own is None:
            error = ": ".join(filter(None, [reason, own or end]))
            summary |= {"status": "failed", "error": error}
            folder.mkdir(parents=True, exist_ok=True)
            RunFolder(folder).end_summary(summary)
        self.refresh()
        return str(summary["error"])

    def refresh(self) -> None:
        """The report."""
        refresh_report(self.folder)


def open_sweep(folder: Path, task: TaskFunction) -> Sweep:
    """The sweep in a folder; of ours only if the task is training."""
    ours = getattr(task, "__module__", "") == "babygpt_exp.cli"
    return RunSweep(folder) if ours else Sweep(folder)


def finished(folder: Path, overrides: list[str]) -> float | None:
    """The final bits a byte of a sweep's job that is complete, those so far of one that was pruned;
    None if it has to run, or to go on.

    Raises ConfigError if the folder is of a job with other overrides.
    """
    summary = read_summary(RunFolder(folder))
    if not summary:
        return None
    was = summary.get("overrides", overrides)
    if was != overrides:
        raise ConfigError(
            f"{folder} is of another sweep: it has {' '.join(was)}, not {' '.join(overrides)}; "
            "give the same overrides to go on with it, or another hydra.sweep.dir"
        )
    if is_pruned(summary):
        return PrunedValue(summary["final_val_bpb"])
    return summary["final_val_bpb"] if summary["status"] == "completed" else None


def record_refusal(folder: Path, overrides: list[str], error: str) -> None:
    """Write the summary of a job whose config is refused, unless there is a run already."""
    if not RunFolder(folder).config.exists():
        summary = first_summary(None, overrides) | {"status": "failed", "error": error}
        RunFolder(folder).end_summary(summary)


def refresh_report(folder: Path) -> None:
    """Make the report of a sweep again; no job fails for want of one."""
    from babygpt_exp.report.write import write_report

    try:
        write_report(folder)
    except (UserError, OSError) as error:
        print(f"note: no report: {error}", file=sys.stderr)
