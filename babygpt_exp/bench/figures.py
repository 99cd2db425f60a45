"""All figures of a configuration: training, bare loop, peak, stream, generation, memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from babygpt_exp.assembly import Experiment, build
from babygpt_exp.bench.endless import endless
from babygpt_exp.bench.generation import generation_figures
from babygpt_exp.bench.memory import forget_peak_memory, memory_figures
from babygpt_exp.bench.settings import BenchSettings
from babygpt_exp.bench.windows import (
    WARMUP_STEPS,
    WINDOW_STEPS,
    Interleave,
    num_compiled_graphs,
    ratios,
)
from babygpt_exp.callbacks.checkpoints import Checkpoints
from babygpt_exp.callbacks.stop import StopSignals
from babygpt_exp.config import Config
from babygpt_exp.data.module import StreamDataModule
from babygpt_exp.errors import UserError
from babygpt_exp.flops import flops_per_token, utilization
from babygpt_exp.hardware import choose_machine
from babygpt_exp.job import Job
from babygpt_exp.model import Decoder
from babygpt_exp.peak import EXPECTED_SHARE, matmul_dtype, measure_peak, measure_roof
from babygpt_exp.record import Record
from babygpt_exp.summary import git_commit, versions
from babygpt_exp.terminal import PlainTerminal, clock_text
from babygpt_exp.train import seed

COMPILE_SECONDS = 40.0
"""What compiling takes on two cores, for the estimate."""


class RowlessTerminal(PlainTerminal):
    """Makes the lines of rows up as in a run, and shows them to nobody."""

    def row(self, row: Mapping[str, float]) -> None:
        """Nothing to see."""
        self._state.update(row)
        len(self._state.text)


def measure(config: Config, settings: BenchSettings, folder: Path) -> dict[str, Any]:
    """The figures of a run in `folder`; says on standard output what goes on."""
    job = Job(folder, settings.overrides, settings.overrides, run_id="bench", sweep=None)
    terminal = RowlessTerminal()
    with Record(config, job) as record, StopSignals() as signals:
        seed(config, record.ranks)
        with build(endless(config), record, signals, terminal) as experiment:
            machine = choose_machine(config.hardware, config.precision)
            dtype, device = matmul_dtype(config.precision), machine.device
            peaks = [measure_peak(dtype, device, settings.seconds)]
            seconds = expected_seconds(config, settings, peaks[0], experiment)
            terminal.say(f"measuring, about {clock_text(seconds)} ...")
            forget_peak_memory(device)
            figures = facts(config, experiment) | {"machine": machine.description}
            figures |= train(config, settings, experiment, signals)
            figures |= memory_figures(device)
            terminal.say("measuring the peak again, the stream and generation ...")
            peaks.append(measure_peak(dtype, device, settings.seconds))
            roof = measure_roof(
                [(m.size(0), m.size(1)) for m in experiment.module.model.matrices()],
                figures["micro_batch_tokens"],
                dtype,
                device,
                settings.seconds,
            )
            figures |= shares(figures, experiment.module.model, peaks, roof)
            figures["stream_tokens_per_s"] = stream_speed(experiment.data, settings.seconds)
            experiment.module.to(device)  # from where Lightning has put it in the end
            text = experiment.data.validation_batches[0].tokens[0].tolist()
            figures |= generation_figures(
                experiment.module.model,
                experiment.data.tokenizer,
                text,
                dtype,
                compiled=experiment.module.compiled,
            )
    return figures | {"git_commit": git_commit(), "versions": versions()}


def expected_seconds(
    config: Config, settings: BenchSettings, peak: float, experiment: Experiment
) -> float:
    """How long all will take, roughly."""
    flops = flops_per_token(config.model, experiment.module.model) * config.run.batch_tokens
    step = flops / (EXPECTED_SHARE * peak)
    window = max(settings.seconds, WINDOW_STEPS * step) + step / 2
    compiling = COMPILE_SECONDS if experiment.module.compiled else 0.0
    windows = (2 * settings.pairs + 1) * window
    return compiling + (WARMUP_STEPS + 1) * step + windows + 4 * settings.seconds


def facts(config: Config, experiment: Experiment) -> dict[str, Any]:
    """What was measured."""
    model = experiment.module.model
    return {
        "model": {
            "arch": config.arch.name,
            "num_layers": config.model.num_layers,
            "width": config.model.width,
            "num_heads": config.model.num_heads,
            "context": config.model.context,
            "vocab_size": experiment.data.tokenizer.vocab_size,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "optimizer": config.optimizer.name,
        "precision": config.precision.name,
        "data": config.data.name,
        "logger": config.logger.name,
        "batch_tokens": config.run.batch_tokens,
        "micro_batch_tokens": experiment.data.rows * config.model.context,
        "threads": torch.get_num_threads(),
        "flops_per_token": flops_per_token(config.model, model),
        "causal_flops_per_token": flops_per_token(config.model, model, causal=True),
    }


def train(
    config: Config, settings: BenchSettings, experiment: Experiment, signals: StopSignals
) -> dict[str, Any]:
    """Speeds of training and of the bare loop in turns, medians of the windows."""
    module, trainer = experiment.module, experiment.trainer
    module.config = config  # with the schedule of the run itself
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpoints):
            callback.best = -math.inf  # no evaluation is better: nothing is saved
    windows = Interleave(config, settings, experiment.metrics.clock, signals)
    trainer.callbacks.append(windows)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=experiment.data)
    if len(windows.trained) <= settings.pairs:
        raise UserError("the training ended before it was measured")
    trained = [round(window.tokens_per_s, 1) for window in windows.trained]
    bare = [round(window.tokens_per_s, 1) for window in windows.bare]
    pairs = ratios(windows.trained, windows.bare)
    waited = sum(window.waited_seconds for window in windows.trained)
    return {
        "compiled": module.compiled,
        "tokens_per_s": round(statistics.median(trained), 1),
        "bare_loop_tokens_per_s": round(statistics.median(bare), 1),
        "ratio_to_bare_loop": round(statistics.median(pairs), 4),
        "windows_tokens_per_s": trained,
        "bare_loop_windows_tokens_per_s": bare,
        "ratios_to_bare_loop": [round(ratio, 4) for ratio in pairs],
        "window_steps": [window.num_steps for window in windows.trained],
        "first_step_seconds": round(windows.first_step_seconds, 3),
        "recompiles_after_step_2": num_compiled_graphs() - windows.num_graphs,
        "data_wait_frac": round(waited / sum(w.seconds for w in windows.trained), 6),
    }


def shares(
    figures: dict[str, Any], model: Decoder, peaks: list[float], roof: float
) -> dict[str, float | None]:
    """Training against the best of the peaks, and against its own products alone.

    `percent_of_roof` is the part of a step that its matrix products would take by themselves.
    A share above 100 % is None: then the limit was disturbed while it was measured.
    """
    peak, tokens_per_s = max(peaks), float(figures["tokens_per_s"])

    def percent(flops: float, limit: float) -> float | None:
        share = utilization(flops, tokens_per_s, limit)
        return None if share is None else round(100 * share, 3)

    return {
        "peak_gflops": round(peak / 1e9, 1),
        "peak_gflops_before": round(peaks[0] / 1e9, 1),
        "peak_gflops_after": round(peaks[-1] / 1e9, 1),
        "percent_of_peak": percent(figures["flops_per_token"], peak),
        "causal_percent_of_peak": percent(figures["causal_flops_per_token"], peak),
        "roof_gflops": round(roof / 1e9, 1),
        "percent_of_roof": percent(6.0 * model.num_matmul_parameters(), roof),
    }


def stream_speed(data: StreamDataModule, seconds: float) -> int:
    """Tokens a second that one client gets if nobody trains, as the micro-batches of training.

    From the second batch on; what was served once comes from the server's cache.
    """
    stream = data.train_dataloader()
    next(stream)
    start, num_tokens = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        num_tokens += next(stream).num_tokens
    return round(num_tokens / (time.perf_counter() - start))
