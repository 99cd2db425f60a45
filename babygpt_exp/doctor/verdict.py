"""Whether a run fits this machine, a line each, with what to change where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from babygpt_exp.config import Config
from babygpt_exp.doctor.plan import Plan
from babygpt_exp.tracking.config import WandbConfig


@dataclass(frozen=True)
class Verdict:
    """One thing that a run needs."""

    what: str
    """In a word: memory, disk, ..."""
    fits: bool
    """Whether it can be had."""
    line: str
    """Why, or what to change."""


def verdicts(
    config: Config, plan: Plan, machine: dict[str, Any], needs: dict[str, Any]
) -> list[Verdict]:
    """All of them, in the order in which a run would meet them."""
    found = [
        Verdict("precision", True, f"{config.precision.name} on {plan.machine.description}"),
        memory(config, plan, machine, needs["memory_mb"]),
        *disk(machine["disk"], needs["disk_mb"]),
    ]
    if plan.machine.accelerator == "gpu":
        found.insert(1, gpu_memory(config, plan, machine, needs["memory_mb"]))
    if plan.compiled and machine["compiler"]["works"] is False:  # training goes on without it
        words = f"without torch.compile, slower: {machine['compiler']['problem']}"
        found.append(Verdict("compiler", True, words))
    if isinstance(config.logger, WandbConfig):
        found.append(wandb(config.logger, machine["wandb"]))
    return found


def memory(config: Config, plan: Plan, machine: dict[str, Any], needs: dict[str, Any]) -> Verdict:
    """Memory of the machine."""
    free = machine["memory"]["available_mb"]
    if free is None:
        return Verdict("memory", True, f"{size(needs['total'])}; this system does not say its own")
    words = f"{size(needs['total'])} of {size(free)} free"
    if needs["total"] <= free:
        return Verdict("memory", True, words)
    return Verdict("memory", False, f"{words}; {less_memory(config, plan, needs, free)}")


def gpu_memory(
    config: Config, plan: Plan, machine: dict[str, Any], needs: dict[str, Any]
) -> Verdict:
    """Memory of the GPU."""
    free = machine["gpus"][0]["free_mb"]
    words = f"{size(needs['gpu'])} of {size(free)} free"
    if needs["gpu"] <= free:
        return Verdict("GPU memory", True, words)
    own = needs | {"total": needs["gpu"]}
    return Verdict("GPU memory", False, f"{words}; {less_memory(config, plan, own, free)}")


def less_memory(config: Config, plan: Plan, needs: dict[str, Any], free: float) -> str:
    """What to change so that a run needs less: a smaller micro-batch, if that is enough."""
    context, micro = config.model.context, plan.micro_batch_tokens
    comes_in_turns = plan.processes * (needs["activations"] + needs["logits"])
    stays = needs["total"] - comes_in_turns
    rows = micro // context
    for num_rows in (n for n in range(rows - 1, 0, -1) if rows % n == 0):
        if stays + comes_in_turns * num_rows / rows <= free:
            return f"hardware.micro_batch_tokens={num_rows * context} would fit"
    return "take a smaller model, or model.context=..., or another machine"


def disk(places: dict[str, Any], needs: dict[str, float]) -> list[Verdict]:
    """Disks of the run's folder and of the cache, which may be one."""
    runs, cache = places["runs"], places["cache"]
    if not runs["writable"]:
        line = f"{runs['path']}/ can not be made here; go to another folder, or hydra.run.dir=..."
        return [Verdict("disk", False, line)]
    wanted = needs["most"]
    if runs["device"] == cache["device"]:
        wanted += needs["cache"]
    words = f"{size(wanted)} of {size(runs['free_mb'])} free"
    fits = wanted <= runs["free_mb"]
    if not fits:
        words += "; make room, or hydra.run.dir=... on another disk"
    found = [Verdict("disk", fits, words)]
    if runs["device"] != cache["device"] and needs["cache"] > cache["free_mb"]:
        words = f"{size(needs['cache'])} of {size(cache['free_mb'])} free in {cache['path']}"
        # the streamer goes on from memory without its cache: slower, and no reason not to run
        found.append(Verdict("cache", True, f"{words}: tokens are made again; XDG_CACHE_HOME=..."))
    return found


def wandb(logger: WandbConfig, facts: dict[str, Any]) -> Verdict:
    """Whether W&B can be logged to as wanted; nobody asks its server."""
    if logger.mode != "online" or facts["logged_in"]:
        return Verdict("W&B", True, logger.mode)
    return Verdict("W&B", False, "online needs a key: run 'wandb login', or WANDB_MODE=offline")


def size(megabytes: float) -> str:
    """MB of 10^6 bytes, or GB of 10^9."""
    return f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"
