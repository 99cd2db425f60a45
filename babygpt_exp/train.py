"""A run, from its config to its summary: seed, build, log the config, fit, report."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import lightning as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from omegaconf import OmegaConf

from babygpt_exp.callbacks.checkpoints import Checkpoints
from babygpt_exp.callbacks.initial import InitialEvaluation
from babygpt_exp.callbacks.metrics import Clock, Metrics
from babygpt_exp.callbacks.prune import Prune
from babygpt_exp.callbacks.resume import Resume
from babygpt_exp.callbacks.samples import Samples
from babygpt_exp.callbacks.stop import Stop, StopSignals
from babygpt_exp.config import Config
from babygpt_exp.data.module import StreamDataModule
from babygpt_exp.flops import flops_per_token
from babygpt_exp.folder import write_whole
from babygpt_exp.hardware import (
    choose_compile,
    choose_machine,
    choose_micro_batch,
    is_sharded,
    keep_freed_memory,
)
from babygpt_exp.initial import Initial, read_initial
from babygpt_exp.module import GPTModule
from babygpt_exp.parallel.ranks import Ranks, losses_named
from babygpt_exp.parallel.sharding import Sharded
from babygpt_exp.peak import measure_run_peak
from babygpt_exp.pruner import MedianConfig
from babygpt_exp.record import Job, Record
from babygpt_exp.terminal import Terminal, clock_text
from babygpt_exp.tracking.config import WandbConfig
from babygpt_exp.tracking.files import FileLogger


@dataclass(frozen=True)
class Experiment:
    """The parts of a run, put together."""

    data: StreamDataModule
    """Streamer, client and tokenizer."""
    module: GPTModule
    """Model, loss and optimizer."""
    trainer: L.Trainer
    """Lightning's loop."""
    metrics: Metrics
    """What was measured."""
    facts: dict[str, str]
    """What a person should know before it starts."""


def train(config: Config, job: Job, terminal: Terminal, ranks: Ranks) -> float:
    """Run a config in a folder; returns the final validation loss in bits a byte.

    Whatever happens, summary.json says how it ended, and what was written stays. All ranks call
    it, and the first one writes.
    """
    with Record(config, job, ranks) as record, StopSignals(ranks) as signals, losses_named():
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


@contextmanager
def build(
    config: Config, record: Record, signals: StopSignals, terminal: Terminal
) -> Iterator[Experiment]:
    """Start the streamer; make model, loggers and trainer; end all of it again."""
    ranks = record.ranks
    machine = choose_machine(config.hardware, config.precision)
    micro = choose_micro_batch(
        config.hardware, machine, config.run.batch_tokens // ranks.world, config.model.context
    )
    saved, initial = record.job.saved, initial_of(config, record)
    with ExitStack() as stack:
        terminal.say("starting the streamer, making the tokenizer ...")
        data = StreamDataModule(
            config,
            micro_batch_tokens=micro,
            log_path=record.folder.streamer_log,
            say=terminal.say,
            tokenizer=initial.tokenizer if initial else saved.tokenizer if saved else None,
            ranks=ranks,
            wants_to_stop=lambda: signals.is_requested,
        )
        stack.callback(data.close)
        data.connect()
        if saved is not None:
            saved.check_stream(data)
        module = GPTModule(config, data.tokenizer, ranks)
        if initial is not None:
            initial.load_into(module.model)
        flops = flops_per_token(config.model, module.model)
        compiled, compile_words = choose_compile(
            config.hardware, machine, flops * config.run.max_tokens
        )
        if compiled:
            module.compile_model(machine.device)
            stack.callback(torch._dynamo.reset)  # nothing compiled for the next job of a sweep
        own_peak = measure_run_peak(machine, config.precision, flops * config.run.max_tokens)
        (peak,) = ranks.sum([own_peak or 0.0])
        clock = Clock()
        metrics = Metrics(config, record.folder, clock, terminal, ranks.is_first)
        metrics.flops_per_token, metrics.peak_flops = flops, peak or None
        checkpoints = Checkpoints(config, record.folder, clock, ranks)
        loggers = open_loggers(config, record, stack, terminal) if ranks.is_first else []
        record.loggers, record.metrics = loggers, metrics  # type: ignore[assignment]
        samples = Samples(config, clock, terminal, signals)
        stop = Stop(config, signals, checkpoints)
        callbacks: list[L.Callback] = [metrics, checkpoints, samples, stop]
        if isinstance(config.pruner, MedianConfig):
            if record.job.sweep is None:
                terminal.say("note: pruner=median does nothing outside a sweep")
            else:
                callbacks.append(Prune(config, config.pruner, metrics))
        if saved is not None:
            callbacks.append(Resume(config, record, saved, metrics, samples, checkpoints))
        if initial is not None:
            callbacks.append(InitialEvaluation(metrics))
        trainer = new_trainer(config, ranks, machine.accelerator, micro, loggers, callbacks)
        total = sum(p.numel() for p in module.model.parameters())
        metrics.parameters = total
        facts = {
            "machine": f"{together(config, ranks)}{machine.description}, {config.precision.name}, "
            f"compile {compile_words}",
            "model": f"{config.arch.name}, {total / 1e6:.1f} M parameters, "
            f"{flops / 1e6:,.0f} MFLOP a token",
            "tokenizer": f"{config.tokenizer.name}, {data.tokenizer.vocab_size:,} tokens",
            "budget": f"{config.run.num_steps:,} steps of {config.run.batch_tokens:,} tokens, "
            f"{config.run.num_steps * config.run.batch_tokens / total:.2g} tokens a parameter",
            "folder": str(record.job.folder),
        }
        if initial is not None:
            facts["start"] = initial.words
        for note in machine.notes:
            terminal.say(f"note: {note}")
        yield Experiment(data, module, trainer, metrics, facts)


def initial_of(config: Config, record: Record) -> Initial | None:
    """What a run starts from, if that is another run's checkpoint and it has none of its own."""
    saved = record.job.saved
    if config.init_from is None or (saved is not None and saved.checkpoint is not None):
        return None
    return read_initial(config.init_from)


def open_loggers(
    config: Config, record: Record, stack: ExitStack, terminal: Terminal
) -> list[Logger]:
    """The files, and W&B if it is chosen."""
    loggers: list[Logger] = [FileLogger(record.folder)]
    if isinstance(config.logger, WandbConfig):
        from babygpt_exp.tracking.wandb import open_run, wandb_folders

        stack.enter_context(wandb_folders(record.job.folder / "wandb"))
        loggers.append(open_run(config.logger, record.job, config.plain, terminal.say))
    return loggers


def new_trainer(
    config: Config,
    ranks: Ranks,
    accelerator: str,
    micro_batch_tokens: int,
    loggers: list[Logger],
    callbacks: list[L.Callback],
) -> L.Trainer:
    """Lightning's trainer with nothing on that this package does itself."""
    for name in ("lightning.pytorch", "torch.utils.cpp_extension"):  # advice, no news
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    num_micro_batches = config.run.batch_tokens // ranks.world // micro_batch_tokens
    eval_steps = config.run.interval_steps(config.run.eval_every_tokens, parts=8)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=ranks.local_world,
        num_nodes=ranks.world // ranks.local_world,
        strategy=strategy(config, ranks),
        plugins=[TorchElasticEnvironment()] if ranks.world > 1 else None,
        precision=config.precision.name,
        logger=loggers,
        callbacks=callbacks,
        max_epochs=-1,
        accumulate_grad_batches=num_micro_batches,
        val_check_interval=eval_steps * num_micro_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Lightning would have the ranks agree on SIGTERM before each micro-batch; ours do once a step.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def strategy(config: Config, ranks: Ranks) -> str | Strategy:
    """How ranks train one model: Lightning's DDP or FSDP2, in the group that `join` has made."""
    if ranks.world == 1:
        return "auto"
    if is_sharded(config.hardware):
        return Sharded(ranks.world)
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def together(config: Config, ranks: Ranks) -> str:
    """How many ranks there are, in words; nothing for one."""
    name = "fsdp" if is_sharded(config.hardware) else "ddp"
    return "" if ranks.world == 1 else f"{ranks.world} processes by {name}: "


def log_config(config: Config, record: Record, experiment: Experiment, terminal: Terminal) -> None:
    """Write the config and the tokenizer, and say what is going to happen."""
    write_whole(record.folder.config, OmegaConf.to_yaml(OmegaConf.create(config.plain)))
    write_whole(record.folder.tokenizer, experiment.data.tokenizer.json)
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
