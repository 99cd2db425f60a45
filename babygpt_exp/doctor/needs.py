"""What a run needs: memory, disk and time, measured by a trial where there was one.

RUN_MB, SPARE and SAVE_COPIES fit two real runs on two cores of an Intel Xeon with AMX, 2026-11-28:
`model=nano` took 1,451 MB (with a trial 1,451, without 1,358) and 57.6 MB of disk (57.8),
`model=baby run.max_tokens=131072` took 2,306 MB (2,350 and 2,240) and 403.6 MB of disk (403.8).
"""

from __future__ import annotations

from typing import Any

from babygpt_exp.config import Config
from babygpt_exp.data.config import ShuffledConfig
from babygpt_exp.doctor.plan import Plan, count_due
from babygpt_exp.hardware import EAGER_FLOPS, is_sharded
from babygpt_exp.peak import EXPECTED_SHARE
from babygpt_exp.tracking.config import WandbConfig

BASE_MB = 800.0
"""A process with torch, Lightning and W&B imported, before there is a model."""

RUN_MB = 100.0
"""What a run has beside its model that a trial has not: client, validation text, curves."""

SPARE = 1.2
"""Memory that is kept for the next tensors and for samples: a part of the model's own."""

SAVE_COPIES = 2
"""Copies of a checkpoint that Lightning holds in memory while it writes one."""

STREAMER_MB = 170.0
"""The embedded streamer's process."""

WANDB_MB = 45.0
"""W&B's own process beside the run."""

START_SECONDS = 12.0
"""Imports, the streamer and the tokenizer, where no trial has measured the imports."""

STREAM_SECONDS = 4.0
"""The streamer and the tokenizer alone."""

VALIDATION_SHARE = 1 / 3
"""Arithmetic of a token that is validated, against one that is trained on."""

TOKEN_BYTES = 32
"""A token of the vocabulary in tokenizer.json, which each checkpoint has too."""

ROW_BYTES = 120
"""A row of metrics.csv."""

WANDB_ROW_BYTES = 1200
"""The same in W&B's log."""

SHARD_BYTES = 16e6
"""Text of a shard of files; it is tokenized whole, when it is reached."""

BYTES_PER_TOKEN = 4.0
"""Text of a token of `tokenizer=bpe`, at the least."""


def memory_needs(config: Config, plan: Plan, trial: dict[str, Any] | None) -> dict[str, Any]:
    """Memory in MB of 10^6 bytes: of a process in parts, of the GPU, of all processes."""
    sizes = plan.sizes
    share = plan.world if is_sharded(config.hardware) else 1
    parts = {
        "weights": sizes.weights / share,
        "gradients": sizes.gradients / share,
        "optimizer": sizes.optimizer / share,
        "activations": float(sizes.activations),
        "logits": float(sizes.logits),
    }
    stays = parts["weights"] + parts["gradients"] + parts["optimizer"]
    model_mb = (stays + max(parts["activations"] + parts["logits"], sizes.step / share)) / 1e6
    on_gpu = plan.machine.accelerator == "gpu"
    base = RUN_MB + (BASE_MB if trial is None else trial["base_mb"])
    process, gpu = (base, SPARE * model_mb) if on_gpu else (base + SPARE * model_mb, None)
    if trial is not None:
        process, gpu = RUN_MB + trial["process_mb"], trial["gpu_mb"]
    process += SAVE_COPIES * checkpoint_mb(plan)
    beside = STREAMER_MB if config.data.embedded_sources else 0.0
    beside += WANDB_MB if isinstance(config.logger, WandbConfig) else 0.0
    return {
        "how": "estimated" if trial is None else "measured",
        **{name: round(size / 1e6, 1) for name, size in parts.items()},
        "base": round(base),
        "process": round(process),
        "beside": round(beside),
        "total": round(plan.processes * process + beside),
        "gpu": None if gpu is None else round(gpu),
    }


def checkpoint_mb(plan: Plan) -> float:
    """Size of a checkpoint in MB of 10^6 bytes."""
    sizes = plan.sizes
    return (sizes.weights + sizes.optimizer + TOKEN_BYTES * plan.vocab_size) / 1e6


def disk_needs(config: Config, plan: Plan) -> dict[str, float]:
    """Disk in MB of 10^6 bytes.

    `at_end` counts last and previous checkpoint; the best one is a third file only where it is
    neither. `most` adds that, and one that is being written.
    """
    tokenizer, checkpoint = TOKEN_BYTES * plan.vocab_size, checkpoint_mb(plan)
    kept = min(2, count_due(config.run, config.run.checkpoint_every_tokens, 8))
    row_bytes = ROW_BYTES + (WANDB_ROW_BYTES if isinstance(config.logger, WandbConfig) else 0)
    rows = (plan.num_rows + plan.num_validations) * row_bytes
    texts = plan.num_samples * (len(config.run.prompts) + config.sampling.num_auto)
    samples = texts * BYTES_PER_TOKEN * config.sampling.max_new_tokens * 2
    logs = (rows + samples + tokenizer) / 1e6 + 0.3
    return {
        "checkpoint": round(checkpoint, 1),
        "logs": round(logs, 1),
        "at_end": round(kept * checkpoint + logs, 1),
        "most": round((kept + 2) * checkpoint + logs, 1),
        "cache": round(cache_mb(config, plan), 1),
    }


def cache_mb(config: Config, plan: Plan) -> float:
    """The most that the tokens of the text take in the streamer's cache."""
    data = config.data
    if not data.embedded_sources or not isinstance(data, ShuffledConfig):
        return 0.0
    item_bytes = 2 if plan.vocab_size <= 65_536 else 4
    ahead = data.shuffle_shards * SHARD_BYTES / BYTES_PER_TOKEN
    return (config.run.max_tokens + ahead) * item_bytes / 1e6


def time_needs(
    config: Config, plan: Plan, trial: dict[str, Any] | None, peak_flops: float | None
) -> dict[str, Any]:
    """Seconds of a run and its parts.

    From the trial's steps, or else from a share of the measured peak, or else from what two cores
    reach. Checkpoints are not in it.
    """
    run = config.run
    tokens = run.num_steps * run.batch_tokens
    if trial is not None:
        how = f"measured: steps on random tokens, {'' if trial['compiled'] else 'un'}compiled"
        token, validated = trial["token_seconds"], trial["validation_token_seconds"]
        samples, start = trial["samples_seconds"], trial["start_seconds"] + STREAM_SECONDS
        first = max(0.0, trial["first_seconds"])
    else:
        flops = EAGER_FLOPS if peak_flops is None else EXPECTED_SHARE * peak_flops
        how = f"scaled from FLOPs: {flops / 1e9:,.0f} GFLOP/s"
        how += "" if peak_flops is None else f", {EXPECTED_SHARE:.0%} of the measured peak"
        shared = plan.processes if plan.machine.accelerator == "cpu" else 1  # of the same cores
        token = plan.sizes.flops_per_token / flops * shared / plan.world
        validated, samples, start, first = VALIDATION_SHARE * token, 0.0, START_SECONDS, 0.0
    eval_tokens = run.eval_tokens or 0  # null: nobody knows how much text there is
    parts = {
        "start": start,
        "first_step": first,
        "training": tokens * token,
        "validation": plan.num_validations * eval_tokens * validated,
        "samples": plan.num_samples * samples,
    }
    return {
        "how": how,
        **{name: round(seconds, 1) for name, seconds in parts.items()},
        "total": round(sum(parts.values()), 1),
        "tokens_per_s": round(1 / token, 1),
    }


def model_needs(config: Config, plan: Plan) -> dict[str, Any]:
    """What is trained, on how much."""
    tokens = config.run.num_steps * config.run.batch_tokens
    return {
        "arch": config.arch.name,
        "parameters": plan.sizes.parameters,
        "flops_per_token": plan.sizes.flops_per_token,
        "vocab_size": plan.vocab_size,
        "precision": config.precision.name,
        "tokens": tokens,
        "tokens_per_parameter": round(tokens / plan.sizes.parameters, 4),
        "steps": config.run.num_steps,
        "batch_tokens": config.run.batch_tokens,
        "micro_batch_tokens": plan.micro_batch_tokens,
        "accumulation": plan.accumulation,
        "processes": plan.world,
        "compile": plan.compile_words,
    }
