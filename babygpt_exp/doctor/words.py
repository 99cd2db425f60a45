"""The report for people: lines of at most a hundred columns where paths allow it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from babygpt_exp.doctor.verdict import Verdict, size
from babygpt_exp.terminal import clock_text


def machine_rows(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A name and a line for each thing that the machine has."""
    cpu, memory = machine["cpu"], machine["memory"]
    yield "Python", f"{machine['python']}, torch {machine['torch']}, {machine['system']}"
    limit = "" if cpu["quota"] is None else f", limited to {cpu['quota']:g} by a control group"
    yield "CPU", cpu["model"]
    cores = f"{cpu['cores'] or cpu['logical']} cores, {cpu['usable']} usable{limit}"
    yield "", f"{cores}; torch uses {cpu['threads']} threads"
    free, total = memory["available_mb"], memory["total_mb"]
    known = free is not None and total is not None
    yield "memory", f"{size(free)} of {size(total)} free" if known else "not known"
    for gpu in machine["gpus"]:
        room = f"{size(gpu['free_mb'])} of {size(gpu['memory_mb'])} free"
        yield "GPU", f"{gpu['name']}, {room}, compute capability {gpu['capability']}"
    if machine["no_gpu"] is not None:
        yield "GPU", f"none: {machine['no_gpu']}"
    for name, found in machine["precisions"].items():
        yield name, precision_words(found)
    yield "compiler", compiler_words(machine["compiler"])
    wandb = machine["wandb"]
    logged_in = "logged in" if wandb["logged_in"] else "no key ('wandb login' for online runs)"
    yield "W&B", f"{wandb['version']}, {logged_in}; this run: {wandb['mode']}"
    for name, place in machine["disk"].items():
        writable = "" if place["writable"] else ", NOT writable"
        yield f"disk: {name}", f"{size(place['free_mb'])} free{writable}, {place['path']}"
    if machine["shared_memory_mb"] is not None:
        yield "shared memory", f"{size(machine['shared_memory_mb'])} free"
    extras = machine["extras"]
    yield "extras", ", ".join(name for name, there in extras.items() if there) or "none"
    missing = ",".join(name for name, there in extras.items() if not there)
    if missing:
        yield "not installed", f"pip install 'babygpt-exp[{missing}]'"


def precision_words(found: dict[str, Any]) -> str:
    """A precision's speed, or why there is none."""
    if found["problem"] is not None:
        return str(found["problem"])
    speed = "not measured" if found["gflops"] is None else f"{found['gflops']:,.0f} GFLOP/s"
    return speed if found["native"] else f"{speed}; not native here"


def compiler_words(found: dict[str, Any]) -> str:
    """Whether torch.compile works."""
    if found["problem"] is not None:
        return f"{found['path'] or 'none'}: {found['problem']}"
    if found["works"] is None:
        return f"{found['path']}, not tried"
    return f"{found['path']}; torch.compile works, {found['seconds']} s for next to nothing"


def needs_rows(needs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A name and a line for each thing that the run needs."""
    model, memory, disk = needs["model"], needs["memory_mb"], needs["disk_mb"]
    parameters = f"{model['parameters'] / 1e6:.1f} M parameters"
    flops = f"{model['flops_per_token'] / 1e6:,.0f} MFLOP a token"
    yield "model", f"{model['arch']}, {parameters}, {flops}, vocabulary {model['vocab_size']:,}"
    steps = f"{model['steps']:,} steps of {model['batch_tokens']:,}"
    share = f"{model['tokens_per_parameter']:.2g} a parameter"
    yield "budget", f"{model['tokens']:,} tokens, {share}; {steps}"
    processes = "" if model["processes"] == 1 else f" by {model['processes']} processes"
    parts = f"{model['accumulation']} x {model['micro_batch_tokens']:,} tokens{processes}"
    yield "step", f"{parts}; compile {model['compile']}"
    gpu = "" if memory["gpu"] is None else f"{size(memory['gpu'])} on the GPU, "
    process = f"{size(memory['process'])} a process ({memory['how']})"
    yield "memory", f"{gpu}{process}, {size(memory['beside'])} beside it"
    names = ("base", "weights", "gradients", "optimizer", "activations", "logits")
    yield "", "in MB: " + ", ".join(f"{name} {memory[name]:,.0f}" for name in names)
    most = f"{size(disk['most'])} at most: checkpoints of {size(disk['checkpoint'])}"
    yield "disk", f"{size(disk['at_end'])} in the end, {most}"
    yield "", f"logs {size(disk['logs'])}; tokens in the cache {size(disk['cache'])} at most"
    yield from time_rows(needs["seconds"])


def time_rows(time: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How long it takes, and from what that is known."""
    yield "time", f"{clock_text(time['total'])}, {time['tokens_per_s']:,.0f} tokens a second"
    names = ("start", "first_step", "training", "validation", "samples")
    yield "", ", ".join(f"{name.replace('_', ' ')} {clock_text(time[name])}" for name in names)
    yield "", time["how"]


def verdict_rows(verdicts: list[Verdict]) -> Iterator[tuple[str, str]]:
    """A name and a line for each verdict."""
    for verdict in verdicts:
        yield verdict.what, f"{'fits' if verdict.fits else 'DOES NOT FIT'}: {verdict.line}"
