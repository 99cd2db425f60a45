"""Whether `arch=gpt2 optimizer=adamw schedule=cosine` learns as nanoGPT does: `make fidelity`.

Usage: .venv/bin/python tests/peers/nanogpt.py CHECKOUT [--model nano] [--seeds 1,2,3] ...
CHECKOUT is a folder with nanoGPT's model.py and train.py (https://github.com/karpathy/nanoGPT).
Model, optimizer and `get_lr` are its own, read from there; so are betas, decay and clip. It gets
the batches of our run, in the same order, the same tokenizer and the same validation blocks.

It also gets our run's initial weights, since on short runs its own draw of them moves the end by
more than the bound; that both draw from the same distribution is checked apart. `--weights own`
leaves it its own. Different by design: our schedule is read at the middle of a step, nanoGPT's at
its start; our GELU is GPT-2's, in tanh form. Both run uncompiled.
Prints one JSON object; exits 1 where the means at the end differ by more than BOUND_PERCENT, or
the initial weights by more than SPREAD_PERCENT.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY), str(HERE)]

from checkout import Peer, largest_spread, new_model, open_checkout, their_weights  # noqa: E402

from babygpt_exp.config import Config, load  # noqa: E402
from babygpt_exp.data.batches import MicroBatch  # noqa: E402
from babygpt_exp.data.module import StreamDataModule  # noqa: E402
from babygpt_exp.evaluation import Evaluation  # noqa: E402
from babygpt_exp.hardware import choose_machine, choose_micro_batch  # noqa: E402
from babygpt_exp.model import build_model  # noqa: E402
from babygpt_exp.parallel.ranks import Ranks  # noqa: E402
from babygpt_exp.train import seed as seed_all  # noqa: E402

BOUND_PERCENT = 0.5
"""Largest difference of the mean bits a byte at the end."""
SPREAD_PERCENT = 5.0
"""Largest difference of the standard deviation of an initial matrix; chance gives about 1."""
RUN_SECONDS = 7200
"""After so long one of our runs is taken to hang."""
RECIPE = ("arch=gpt2", "optimizer=adamw", "schedule=cosine")


@dataclass(frozen=True)
class Curve:
    """One run, ours or theirs."""

    bits_per_byte: dict[int, float]
    """On the validation blocks, by the steps trained."""
    tokens_per_s: float
    """Median over the steps, without evaluation."""
    spread_percent: float = 0.0
    """Largest difference of the spread of an initial matrix, theirs alone."""


def train_ours(overrides: Sequence[str], folder: Path) -> Curve:
    """A run as a user starts it, in a process of its own."""
    command = [sys.executable, "-m", "babygpt_exp", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(
        command,
        cwd=folder.parent,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    if done.returncode != 0:
        sys.exit(f"our run failed: {done.stderr.strip()}")
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/bpb"]]
    speed = json.loads((folder / "summary.json").read_text())["tokens_per_s"]
    return Curve({int(row["step"]): float(row["val/bpb"]) for row in rows}, speed)


def child_environment() -> dict[str, str]:
    """This process's environment, with the packages of this checkout first."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def train_theirs(peer: Peer, folder: Path, steps: Sequence[int], *, weights: str) -> Curve:
    """The same run by nanoGPT's parts; `folder` is ours, `steps` are when it was evaluated."""
    plain = OmegaConf.load(folder / "config.yaml")
    assert isinstance(plain, DictConfig)
    config = load(plain)
    seed_all(config, Ranks())
    machine = choose_machine(config.hardware, config.precision)
    batch_tokens = config.run.batch_tokens
    micro = choose_micro_batch(config.hardware, machine, batch_tokens, config.model.context)
    data = StreamDataModule(
        config, micro_batch_tokens=micro, log_path=folder / "peer.log", say=lambda line: None
    )
    with closing(data), redirect_stdout(sys.stderr):  # nanoGPT talks
        data.connect()
        assert data.tokenizer.json == (folder / "tokenizer.json").read_text(encoding="utf-8")
        # Here as in our run: after the seed, nothing but the model draws from torch.
        initial = their_weights(build_model(config.model, config.arch, data.tokenizer.vocab_size))
        model = new_model(peer, config, data.tokenizer.vocab_size)
        spread = largest_spread(initial, model.state_dict())
        if weights == "ours":
            model.load_state_dict(initial)
        model.to(machine.device)
        curve, speed = loop(peer, config, data, model, batch_tokens // micro, set(steps))
        return Curve(curve, speed, spread)


def loop(
    peer: Peer,
    config: Config,
    data: StreamDataModule,
    model: Any,
    num_parts: int,
    steps: set[int],
) -> tuple[dict[int, float], float]:
    """nanoGPT's training loop, in our words: no DDP, no files, no prints."""
    settings, lr, num_steps = peer.settings, config.optimizer.lr, config.run.num_steps
    device = model.lm_head.weight.device
    betas = (settings["beta1"], settings["beta2"])
    optimizer = model.configure_optimizers(settings["weight_decay"], lr, betas, device.type)
    get_lr = peer.schedule(lr, round(config.schedule.warmup * num_steps), num_steps)
    arithmetic = torch.autocast(
        device.type, torch.bfloat16, enabled=config.precision.name == "bf16-mixed"
    )
    batches = data.train_dataloader()
    curve, speeds = {}, []
    for step in range(num_steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step)
        for _ in range(num_parts):
            batch = next(batches).to(device)
            with arithmetic:
                _, loss = model(batch.tokens, their_targets(batch))
            (loss / num_parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        speeds.append(config.run.batch_tokens / (time.perf_counter() - start))
        if step + 1 in steps:
            with arithmetic:
                curve[step + 1] = evaluate(model, data.validation_batches, device)
    return curve, statistics.median(speeds)


def their_targets(batch: MicroBatch) -> Tensor:
    """Targets with nanoGPT's sign for none."""
    return batch.targets.clamp(min=-1)


@torch.no_grad()
def evaluate(model: Any, batches: Sequence[MicroBatch], device: torch.device) -> float:
    """Bits a byte on our validation blocks, by a log-softmax in float32."""
    model.eval()
    nats = 0.0
    for batch in batches:
        targets = their_targets(batch).to(device)
        logits, _ = model(batch.tokens.to(device), targets)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
        )
        nats += float(loss)
    model.train()
    num_targets = sum(batch.num_targets for batch in batches)
    text_bytes = sum(batch.text_bytes for batch in batches)
    return Evaluation(nats, num_targets, text_bytes).bits_per_byte


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean; None for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def percent(ours: float, theirs: float) -> float:
    """How much more ours is than theirs."""
    return 100 * (ours / theirs - 1)


def side(curves: Sequence[Curve], step: int) -> dict[str, Any]:
    """One contender at the end, over the seeds."""
    values = [curve.bits_per_byte[step] for curve in curves]
    return {
        "bits_per_byte": statistics.mean(values),
        "standard_error": standard_error(values),
        "seeds": values,
        "tokens_per_s": statistics.median(curve.tokens_per_s for curve in curves),
    }


def compare(
    ours: Sequence[Curve], theirs: Sequence[Curve], warmup: int, batch_tokens: int
) -> dict[str, Any]:
    """Both contenders, seed by seed the same data; `warmup` is in steps.

    The seeds of a pair share the order of the data, so that the difference is more certain than
    each side is.
    """
    points: list[dict[str, Any]] = []
    for step in sorted(ours[0].bits_per_byte):
        mine = statistics.mean(curve.bits_per_byte[step] for curve in ours)
        other = statistics.mean(curve.bits_per_byte[step] for curve in theirs)
        points.append(
            {
                "step": step,
                "tokens": step * batch_tokens,
                "ours": mine,
                "nanogpt": other,
                "difference_percent": percent(mine, other),
            }
        )
    last = points[-1]["step"]
    pairs = [
        percent(a.bits_per_byte[last], b.bits_per_byte[last])
        for a, b in zip(ours, theirs, strict=True)
    ]
    warm = [point["difference_percent"] for point in points if point["step"] > warmup]
    difference = points[-1]["difference_percent"]
    spread = max(curve.spread_percent for curve in theirs)
    return {
        "ours": side(ours, last),
        "nanogpt": side(theirs, last),
        "difference_percent": difference,
        "difference_standard_error": standard_error(pairs),
        "largest_difference_percent": max(warm, key=abs),
        "initial_spread_percent": spread,
        "bound_percent": BOUND_PERCENT,
        "holds": abs(difference) <= BOUND_PERCENT and spread <= SPREAD_PERCENT,
        "curve": points,
    }


def main() -> int:
    """Runs both for every seed; 0 where the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("checkout", type=Path, help="folder with nanoGPT's model.py and train.py")
    parser.add_argument("--model", choices=("nano", "baby"), default="nano", help="(nano)")
    parser.add_argument("--tokens", type=int, help="tokens a run; default: the model's budget")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between (1,2,3)")
    parser.add_argument("--lr", type=float, default=0.002, help="peak learning rate (0.002)")
    parser.add_argument("--warmup", type=float, default=0.05, help="share of the run (0.05)")
    parser.add_argument("--weights", choices=("ours", "own"), default="ours", help="(ours)")
    parser.add_argument("--set", nargs="*", default=[], help="more overrides, as data=local")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    peer = open_checkout(options.checkout)
    overrides = [
        f"model={options.model}",
        *RECIPE,
        f"optimizer.lr={options.lr}",
        f"schedule.warmup={options.warmup}",
        *([f"run.max_tokens={options.tokens}"] if options.tokens else []),
        "hardware.compile=false",
        "run.sample_every_tokens=1_000_000_000_000",
        "logger=none",
        *options.set,
    ]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        for seed in map(int, options.seeds.split(",")):
            folder = Path(name, str(seed))
            ours.append(train_ours([*overrides, f"seed={seed}"], folder))
            steps = list(ours[-1].bits_per_byte)
            theirs.append(train_theirs(peer, folder, steps, weights=options.weights))
            ends = [max(curve.bits_per_byte.items())[1] for curve in (ours[-1], theirs[-1])]
            print(f"seed {seed}: ours {ends[0]:.4f}, nanoGPT {ends[1]:.4f}", file=sys.stderr)
        config = OmegaConf.load(Path(name, options.seeds.split(",")[0], "config.yaml"))
    num_steps = config.run.max_tokens // config.run.batch_tokens
    result = compare(ours, theirs, round(options.warmup * num_steps), config.run.batch_tokens)
    print(json.dumps({"overrides": overrides, "weights": options.weights} | result, indent=2))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
