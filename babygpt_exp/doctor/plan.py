"""What a run would do, decided as training decides it: steps, micro-batches, compiling, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from babygpt_exp.config import Config, RunConfig
from babygpt_exp.doctor.sizes import Sizes, find_sizes
from babygpt_exp.hardware import (
    Machine,
    ParallelConfig,
    choose_compile,
    choose_machine,
    choose_micro_batch,
)
from babygpt_exp.parallel.ranks import found_place, starts_ranks
from babygpt_exp.tokenizer import TokenizerConfig, read_tokenizer
from babygpt_exp.tokenizer.config import FileConfig, TrainedConfig

NUM_BYTES = 257
"""Tokens of `tokenizer=bytes`: the bytes and the end of text."""


@dataclass(frozen=True)
class Plan:
    """A run before it runs."""

    machine: Machine
    """What each process computes on."""
    processes: int
    """Processes on this machine that train together."""
    world: int
    """Those on all machines."""
    vocab_size: int
    """Tokens of the tokenizer, as asked for."""
    micro_batch_tokens: int
    """Tokens that a process computes at once."""
    accumulation: int
    """Micro-batches a step, of each process."""
    compiled: bool
    """Whether the model would be compiled."""
    compile_words: str
    """Why."""
    sizes: Sizes
    """How large its parts are."""
    num_validations: int
    """Evaluations of the whole run."""
    num_samples: int
    """Rounds of samples."""
    num_rows: int
    """Rows of metrics.csv."""


def make_plan(config: Config) -> Plan:
    """The plan of a config; ConfigError where this machine can not run it."""
    hardware, run = config.hardware, config.run
    machine = choose_machine(hardware, config.precision)
    processes, place = 1, found_place(hardware)
    if starts_ranks(config):
        assert isinstance(hardware, ParallelConfig)
        processes = hardware.num_processes
    elif place is not None:
        processes = place.local_world
    world = processes if place is None else place.world
    own_tokens = run.batch_tokens // world
    micro = choose_micro_batch(hardware, machine, own_tokens, config.model.context)
    vocab_size = vocab_size_of(config.tokenizer)
    sizes = find_sizes(config, machine, vocab_size, micro)
    compiled, words = choose_compile(hardware, machine, sizes.flops_per_token * run.max_tokens)
    return Plan(
        machine=machine,
        processes=processes,
        world=world,
        vocab_size=vocab_size,
        micro_batch_tokens=micro,
        accumulation=own_tokens // micro,
        compiled=compiled,
        compile_words=words,
        sizes=sizes,
        num_validations=count_due(run, run.eval_every_tokens, 8),
        num_samples=count_due(run, run.sample_every_tokens, 4),
        num_rows=count_due(run, run.log_every_tokens, 1000),
    )


def count_due(run: RunConfig, interval_tokens: int | None, parts: int) -> int:
    """How often something comes that has an interval, its last time at the end of the run."""
    return -(-run.num_steps // run.interval_steps(interval_tokens, parts))


def vocab_size_of(tokenizer: TokenizerConfig) -> int:
    """Tokens that a tokenizer has, or is asked to have: a small corpus may give fewer."""
    if isinstance(tokenizer, TrainedConfig):
        return tokenizer.vocab_size
    if isinstance(tokenizer, FileConfig):
        return read_tokenizer(Path(tokenizer.path), tokenizer.end_of_text).vocab_size
    return NUM_BYTES
