"""All W&B runs of a sweep in one folder: links to the folders of its jobs.

`wandb leet SWEEP/wandb` shows them as curves in one picture, `wandb sync SWEEP/wandb` sends
them all; W&B follows links, and marks a run as sent in the folder of its job.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def link_to_sweep(run_folder: Path, sweep_folder: Path) -> None:
    """Link a W&B run below JOB/wandb into SWEEP/wandb, in place of the job's earlier ones.

    A job that goes on writes a log that repeats its earlier ones, and so does one that starts
    again. Links are relative: a sweep may be moved. OSError where the file system has none.
    """
    links = sweep_folder / "wandb"
    links.mkdir(exist_ok=True)  # other jobs may be doing the same
    place = Path("..", *run_folder.parts[-3:-1])
    unfinished = links / f".{run_folder.name}.unfinished"
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(place / run_folder.name, target_is_directory=True)
    os.replace(unfinished, links / run_folder.name)
    for link in links.iterdir():
        with suppress(FileNotFoundError):  # another job's, which it has just renamed or removed
            if (
                link.is_symlink()
                and link.name != run_folder.name
                and link.readlink().parent == place
            ):
                link.unlink()
