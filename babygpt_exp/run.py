"""A run in its folder: begun, gone on with, or complete already; by one process or by several."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from babygpt_exp.config import Config
from babygpt_exp.folder import locked, remove_empty
from babygpt_exp.job import Job
from babygpt_exp.parallel.ranks import join
from babygpt_exp.resume import PRESET, check
from babygpt_exp.saved import SavedRun, read_run
from babygpt_exp.terminal import Terminal, open_terminal
from babygpt_exp.train import train


def run(config: Config, job: Job, *, resume: bool) -> float:
    """Train in a job's folder, or go on with the run that is there; returns its bits a byte.

    Where torchrun or SLURM has started several processes, this is one of them.
    """
    with join(config.hardware) as ranks, ExitStack() as stack:
        terminal = open_terminal() if ranks.is_first else Terminal()
        own_folder = job.folder
        found = ranks.from_first(lambda: first_part(config, job, resume, terminal, stack))
        if not ranks.is_first:
            remove_empty(own_folder)
        return found if isinstance(found, float) else train(config, found, terminal, ranks)


def first_part(
    config: Config, job: Job, resume: bool, terminal: Terminal, stack: ExitStack
) -> Job | float:
    """What the first rank does for all: lock the folder, see what it has. Bits a byte of a run
    that is complete."""
    stack.enter_context(locked(job.folder, terminal.say))
    if not resume:
        return job
    saved = read_run(job.folder)
    lines = [*saved.damaged, *check(saved, config), saved.words(config)]
    if saved.is_complete(config):
        terminal.say(lines[-1])
        return float(saved.summary["final_val_bpb"])
    for line in lines:
        terminal.say(line)
    return go_on(job, saved)


def go_on(job: Job, saved: SavedRun) -> Job:
    """The job of a run that goes on: as it was, and what is typed now is added."""
    typed = [word for word in job.overrides if word != f"experiment={PRESET}"]
    names = {name: saved.summary[name] for name in job.names if name in saved.summary}
    before = saved.summary.get("overrides", [])
    overrides = [*before, *(word for word in typed if word not in before)]
    return replace(job, overrides=overrides, saved=saved, **names)
