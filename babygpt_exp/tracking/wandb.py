"""Weights & Biases as a logger: the same rows, a table of samples, a true exit code.

Offline a run needs no account, no network and no HOME, and asks nothing. A run that goes on
keeps its id: online W&B appends to it; offline it gets a second log, which repeats the first.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from babygpt_exp.errors import UserError, one_line
from babygpt_exp.job import Job
from babygpt_exp.tracking.config import WandbConfig
from babygpt_exp.tracking.history import COLUMNS, History, Sample, numbers
from babygpt_exp.tracking.links import link_to_sweep
from babygpt_exp.tracking.names import run_name, slug

FOLDERS = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR")
"""Where W&B would write into HOME: kept below the run's folder unless the user has set them."""

INIT_SECONDS = 30
"""How long to wait for the server in online mode."""

FINISH_SECONDS = 300
"""How long a run that has ended waits for the server to take the rest of it; the rows of a long
run are a few megabytes."""


@contextmanager
def wandb_folders(root: Path) -> Iterator[None]:
    """W&B's own folders below `root` for as long as the run lasts."""
    changed = [name for name in FOLDERS if name not in os.environ]
    for name in changed:
        folder = root / name.removeprefix("WANDB_").removesuffix("_DIR").lower()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    try:
        yield
    finally:
        for name in changed:
            os.environ.pop(name, None)


def open_run(
    config: WandbConfig,
    job: Job,
    plain_config: dict[str, Any],
    say: Callable[[str], None] = print,
) -> WandbRun:
    """Open a run with tokens as the x axis of every curve; one of a sweep is linked there.

    Raises UserError if the server does not answer.
    """
    settings = wandb.Settings(
        console="off",
        silent=True,
        save_code=False,
        disable_git=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        reinit="finish_previous",
    )
    try:
        run = wandb.init(
            dir=job.folder,
            id=slug(job.run_id),
            name=config.run_name or run_name(job.distinct),
            project=config.project,
            group=config.group or job.sweep,
            job_type="train",
            tags=config.tags,
            mode=config.mode,
            resume="allow" if config.mode == "online" else None,
            config=plain_config,
            settings=settings,
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B did not start the run: {one_line(error)}; train with WANDB_MODE=offline"
        ) from error
    run.define_metric("tokens")
    for column in COLUMNS:
        if column != "tokens":
            run.define_metric(column, step_metric="tokens")
    if job.sweep is not None and config.mode != "disabled":
        link(run, job, say)
    return WandbRun(run, say)


def link(run: wandb.Run, job: Job, say: Callable[[str], None]) -> None:
    """Link a job's run into the folder of its sweep, where the file system has links."""
    try:
        link_to_sweep(Path(run.dir).parent, job.folder.parent)
    except OSError as error:
        say(f"note: no link to this W&B run in the sweep's folder: {one_line(error)}")


class WandbRun(WandbLogger):
    """An open run as a logger of Lightning and of this package.

    W&B's own step counts what was logged. So what a run logs again after it was killed has the
    number that it had before, and what W&B has already is not sent twice.
    """

    def __init__(self, run: wandb.Run, say: Callable[[str], None] = print) -> None:
        super().__init__(experiment=run)
        self._say = say
        self._samples: list[Sample] = []
        self._num_logged = 0
        self._num_known: int = run.starting_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A row, as in metrics.csv."""
        self._log(dict(metrics))

    def log_samples(self, samples: list[Sample]) -> None:
        """The table `samples`, with all of the run so far."""
        if not samples:
            return
        self._samples += samples
        table = wandb.Table(
            columns=[field.name for field in fields(Sample)],
            data=[list(astuple(sample)) for sample in self._samples],
        )
        self._log({"samples": table, "tokens": samples[-1].tokens})

    def _log(self, row: dict[str, Any]) -> None:
        if self._num_logged >= self._num_known:
            self.experiment.log(row, step=self._num_logged, commit=True)
        self._num_logged += 1

    def go_on(self, history: History) -> None:
        """Log what the run has logged before: this log is to be whole by itself."""
        rounds = [list(samples) for _, samples in groupby(history.samples, lambda s: s.step)]
        for row in map(numbers, history.rows):
            # At one step the loss comes before the samples, and they before the validation.
            last_step = row["step"] if "val/loss" in row else row["step"] - 1
            while rounds and rounds[0][0].step <= last_step:
                self.log_samples(rounds.pop(0))
            self._log(dict(row))
        for samples in rounds:
            self.log_samples(samples)

    def finalize(self, status: str) -> None:
        """Nothing: `finish` knows how the run ended."""

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Close the run with what summary.json says of it, and the exit status of its process.

        W&B shows 0 as finished and any other as failed; the summary's `status` says more.
        """
        plain = {key: value for key, value in summary.items() if not isinstance(value, dict | list)}
        self.experiment.summary.update(plain)
        folder = Path(self.experiment.dir).parent
        try:
            self.experiment.finish(exit_code=exit_code)
        except TimeoutError:
            self._say(
                f"note: W&B did not take all of the run in {FINISH_SECONDS} s; send it again: "
                + shlex.join(["wandb", "sync", "--include-online", str(folder)])
            )
