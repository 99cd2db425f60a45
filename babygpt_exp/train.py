"""A run, from its config to its summary: seed, build, log the config, fit, report."""

from __future__ import annotations

import os
import shlex

import lightning as L
import torch
from omegaconf import OmegaConf

from babygpt_exp.assembly import Experiment, build
from babygpt_exp.callbacks.stop import StopSignals
from babygpt_exp.config import Config
from babygpt_exp.config_tree import branches
from babygpt_exp.folder import write_whole
from babygpt_exp.hardware import keep_freed_memory
from babygpt_exp.job import Job
from babygpt_exp.parallel.ranks import Ranks, faults_named
from babygpt_exp.record import Record
from babygpt_exp.terminal import Terminal, clock_text


def train(config: Config, job: Job, terminal: Terminal, ranks: Ranks) -> float:
    """Run a config in a folder; returns the final validation loss in bits a byte.

    Whatever happens, summary.json says how it ended, and what was written stays. All ranks call
    it, and the first one writes.
    """
    with Record(config, job, ranks) as record, StopSignals(ranks) as signals, faults_named():
        seed(config, ranks)
        with build(config, record, signals, terminal) as experiment:
            if ranks.is_first:
                log_config(config, record, experiment, terminal)
            fit(config, record, experiment, terminal)
    return report(record, experiment, terminal)


def seed(config: Config, ranks: Ranks) -> None:
    """Make everything random that follows depend on the seed alone, and set up torch."""
    L.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    keep_freed_memory()
    num_threads = config.hardware.num_threads
    if num_threads is None and ranks.world > 1:  # they share the cores
        num_threads = max(1, len(os.sched_getaffinity(0)) // ranks.local_world)
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def log_config(config: Config, record: Record, experiment: Experiment, terminal: Terminal) -> None:
    """Write the config and the tokenizer, and say what is going to happen."""
    write_whole(record.folder.config, OmegaConf.to_yaml(OmegaConf.create(config.plain)))
    write_whole(record.folder.tokenizer, experiment.data.tokenizer.json)
    terminal.config(branches(config.plain, record.job.overrides))
    terminal.table("babygpt", experiment.facts)


def fit(config: Config, record: Record, experiment: Experiment, terminal: Terminal) -> None:
    """Train to the budget, from the beginning or from a checkpoint."""
    saved = record.job.saved
    checkpoint = saved.checkpoint if saved is not None else None
    terminal.begin(config.run.num_steps)
    try:
        experiment.trainer.fit(
            experiment.module, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=True
        )
    finally:
        terminal.end()


def report(record: Record, experiment: Experiment, terminal: Terminal) -> float:
    """Say how it ended and where to look; returns the final bits a byte."""
    summary, folder = record.summary, record.folder
    before = summary.get("initial_val_loss")
    rows = {
        "validation": f"{summary['final_val_loss']:.3f} nats a token = "
        f"{summary['final_val_bpb']:.4f} bits a byte"
        + (f"; {before:.3f} nats before the first step" if before is not None else ""),
        "speed": f"{summary['tokens_per_s']:,.0f} tokens a second, "
        f"{clock_text(summary['seconds'])} in all",
        "curve": str(folder.curve),
        "samples": str(folder.samples),
        "model": str(folder.last_checkpoint),
    }
    place = folder.path if record.job.sweep is None else folder.path.parent
    logs = [path.parent for path in (place / "wandb").glob("*run-*/run-*.wandb")]
    if logs:
        newest = max(logs, key=lambda path: path.stat().st_mtime)
        shown = str(newest if record.job.sweep is None else place / "wandb")
        rows["look"] = shlex.join(["wandb", "leet", shown])
        rows["upload"] = shlex.join(["wandb", "sync", shown])
    rows["report"] = shlex.join(["python", "-m", "babygpt_exp.report", str(place)])
    terminal.table("done", rows)
    return float(summary["final_val_bpb"])
