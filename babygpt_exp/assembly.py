"""An experiment, put together from its config: data, model, what is measured, Lightning's loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import lightning as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

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
from babygpt_exp.hardware import (
    Machine,
    choose_compile,
    choose_machine,
    choose_micro_batch,
    is_sharded,
)
from babygpt_exp.initial import Initial, read_initial
from babygpt_exp.module import GPTModule
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.parallel.sharding import Sharded
from babygpt_exp.peak import measure_run_peak
from babygpt_exp.pruner import MedianConfig
from babygpt_exp.record import Record
from babygpt_exp.saved import SavedRun
from babygpt_exp.terminal import Terminal
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


@contextmanager
def build(
    config: Config, record: Record, signals: StopSignals, terminal: Terminal
) -> Iterator[Experiment]:
    """Start the streamer; make model, loggers and trainer; end all of it again."""
    ranks, initial = record.ranks, initial_of(config, record.job.saved)
    machine = choose_machine(config.hardware, config.precision)
    with ExitStack() as stack:
        terminal.say("starting the streamer, making the tokenizer ...")
        data = new_data(config, record, initial, machine, signals, terminal)
        stack.callback(data.close)
        connect(data, record.job.saved)
        module = GPTModule(config, data.tokenizer, ranks)
        if initial is not None:
            initial.load_into(module.model)
        flops = flops_per_token(config.model, module.model)
        compile_words = compile_if_it_pays(config, module, machine, flops, stack)
        peak = peak_of(config, machine, flops, ranks)
        metrics = Metrics(config, record.folder, Clock(), terminal, ranks.is_first)
        metrics.flops_per_token, metrics.peak_flops = flops, peak
        metrics.parameters = sum(p.numel() for p in module.model.parameters())
        loggers = open_loggers(config, record, stack, terminal) if ranks.is_first else []
        record.loggers, record.measured = loggers, metrics.summary  # type: ignore[assignment]
        callbacks = new_callbacks(config, record, initial, metrics, signals, terminal)
        micro = data.rows * config.model.context
        trainer = new_trainer(config, ranks, machine.accelerator, micro, loggers, callbacks)
        facts = facts_of(config, ranks, machine, module, metrics, compile_words)
        facts["folder"] = str(record.job.folder)
        if initial is not None:
            facts["start"] = initial.words
        for note in machine.notes:
            terminal.say(f"note: {note}")
        yield Experiment(data, module, trainer, metrics, facts)


def initial_of(config: Config, saved: SavedRun | None) -> Initial | None:
    """What a run starts from, if that is another run's checkpoint and it has none of its own."""
    if config.init_from is None or (saved is not None and saved.checkpoint is not None):
        return None
    return read_initial(config.init_from)


def new_data(
    config: Config,
    record: Record,
    initial: Initial | None,
    machine: Machine,
    signals: StopSignals,
    terminal: Terminal,
) -> StreamDataModule:
    """Streamer, client and tokenizer, not started yet; a tokenizer that is known is not made."""
    saved, ranks = record.job.saved, record.ranks
    batch_tokens, context = config.run.batch_tokens // ranks.world, config.model.context
    return StreamDataModule(
        config,
        micro_batch_tokens=choose_micro_batch(config.hardware, machine, batch_tokens, context),
        log_path=record.folder.streamer_log,
        say=terminal.say,
        tokenizer=initial.tokenizer if initial else saved.tokenizer if saved else None,
        ranks=ranks,
        wants_to_stop=lambda: signals.is_requested,
    )


def connect(data: StreamDataModule, saved: SavedRun | None) -> None:
    """Start the streamer; of a run that goes on at the place where it was."""
    data.connect()
    if saved is not None:
        saved.check_stream(data)


def compile_if_it_pays(
    config: Config, module: GPTModule, machine: Machine, flops: float, stack: ExitStack
) -> str:
    """Compile the model where the config or the length of the run says so; why, in words."""
    compiled, words = choose_compile(config.hardware, machine, flops * config.run.max_tokens)
    if compiled:
        module.compile_model(machine.device)
        stack.callback(torch._dynamo.reset)  # nothing compiled for the next job of a sweep
    return words


def peak_of(config: Config, machine: Machine, flops: float, ranks: Ranks) -> float | None:
    """FLOP/s of all ranks at most; None where the run is too short to measure it."""
    own = measure_run_peak(machine, config.precision, flops * config.run.max_tokens)
    (peak,) = ranks.sum([own or 0.0])
    return peak or None


def new_callbacks(
    config: Config,
    record: Record,
    initial: Initial | None,
    metrics: Metrics,
    signals: StopSignals,
    terminal: Terminal,
) -> list[L.Callback]:
    """What happens beside the training, in the order in which it happens at one step."""
    saved, clock = record.job.saved, metrics.clock
    checkpoints = Checkpoints(config, record.folder, clock, record.ranks)
    samples = Samples(config, clock, terminal, signals)
    callbacks = [metrics, checkpoints, samples, Stop(config, signals, checkpoints)]
    if isinstance(config.pruner, MedianConfig):
        if record.job.sweep is None:
            terminal.say("note: pruner=median does nothing outside a sweep")
        else:
            callbacks.append(Prune(config, config.pruner, metrics))
    if saved is not None:
        callbacks.append(Resume(config, record, saved, metrics, samples, checkpoints))
    if initial is not None:
        callbacks.append(InitialEvaluation(metrics))
    return callbacks


def facts_of(
    config: Config,
    ranks: Ranks,
    machine: Machine,
    module: GPTModule,
    metrics: Metrics,
    compile_words: str,
) -> dict[str, str]:
    """What is trained on what, for people, a line each."""
    trained_tokens = config.run.num_steps * config.run.batch_tokens
    return {
        "machine": f"{together(config, ranks)}{machine.description}, {config.precision.name}, "
        f"compile {compile_words}",
        "model": f"{config.arch.name}, {metrics.parameters / 1e6:.1f} M parameters, "
        f"{metrics.flops_per_token / 1e6:,.0f} MFLOP a token",
        "tokenizer": f"{config.tokenizer.name}, {module.tokenizer.vocab_size:,} tokens",
        "budget": f"{config.run.num_steps:,} steps of {config.run.batch_tokens:,} tokens, "
        f"{trained_tokens / metrics.parameters:.2g} tokens a parameter",
    }


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
