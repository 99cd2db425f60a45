"""Thirty steps of each architecture, held against the curves in tests/golden.

A curve changes whenever a model, an optimizer, a schedule or the loss computes something else.
Where that is meant, `.venv/bin/python tests/test_golden.py --write` writes the curves anew; the
difference belongs into the same change. All values stand here, so that a new default in conf/ is
no reason to.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from babygpt_exp.model import ARCHITECTURES, ArchConfig, ModelConfig, build_model
from babygpt_exp.model.eir import EIRConfig
from babygpt_exp.model.gpt2 import GPT2Config
from babygpt_exp.model.llama import LlamaConfig
from babygpt_exp.model.modern import ModernConfig
from babygpt_exp.optimizer import MuonConfig, OptimizerConfig, build_optimizer
from babygpt_exp.schedule import DecayingConfig, ScheduleConfig, WSDConfig, multiplier

GOLDEN = Path(__file__).parent / "golden"
STEPS, VOCABULARY = 30, 128
SIZE = ModelConfig(2, 64, 2, 64, batch_tokens=512, budget_tokens=512 * STEPS)

TOLERANCE, MUON_TOLERANCE = 5e-5, 1e-3
"""Between kernels for AVX-512, for AVX2 and for neither, losses differ by 2e-7 with AdamW, by 1e-4
with Muon, which computes in bfloat16. A rate 1 % higher makes 1e-3 with AdamW, less with Muon."""

MODERN = ModernConfig(
    "modern",
    qk_norm=True,
    softcap=15.0,
    rotary_base=10000.0,
    embedding_norm=True,
    activation="relu2",
    zero_init=True,
    tied_head=False,
    residual_scalars=False,
    value_embeddings=False,
)
MUON = MuonConfig(
    "muon",
    lr=0.02,
    betas=(0.8, 0.95),
    weight_decay=0.1,
    clip=0.0,
    embedding_lr=0.03,
    head_lr=0.004,
    base_width=64,
    scalar_lr=0.01,
    momentum=0.95,
    num_iterations=5,
)
ADAMW = OptimizerConfig("adamw", lr=0.004, betas=(0.9, 0.95), weight_decay=0.1, clip=0.3)
WSD = WSDConfig("wsd", warmup=0.1, final=0.0, warmdown=0.5)
COSINE = DecayingConfig("cosine", warmup=0.1, final=0.1)
CONSTANT = ScheduleConfig("constant", warmup=0.1)


@dataclass(frozen=True)
class Recipe:
    """What a curve is made of."""

    arch: ArchConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig


RECIPES = {
    "modern-muon": Recipe(MODERN, MUON, WSD),
    "llama-adamw": Recipe(LlamaConfig("llama", 10000.0, tied_head=False), ADAMW, COSINE),
    "gpt2-adamw": Recipe(GPT2Config("gpt2", bias=False), ADAMW, COSINE),
    "gpt2-muon": Recipe(GPT2Config("gpt2", bias=True), MUON, WSD),
    "eir-adamw": Recipe(EIRConfig("eir", layer_scale=0.1), ADAMW, CONSTANT),
}


def text() -> Tensor:
    """Tokens of all batches, (STEPS, B, T + 1): each follows from the one before, or from the
    third before, by one of four rules of which the first is the likeliest."""
    draw = random.Random(1)
    rows, length = SIZE.batch_tokens // SIZE.context, SIZE.context + 1
    tokens = [1, 2, 3]
    while len(tokens) < STEPS * rows * length:
        rule = draw.choices((1, 2, 3, 4), weights=(8, 4, 2, 1))[0]
        tokens.append((3 * tokens[-draw.choice((1, 3))] + rule) % VOCABULARY)
    return torch.tensor(tokens).view(STEPS, rows, length)


def curve(recipe: Recipe) -> list[float]:
    """Mean nats a token, before each step."""
    torch.manual_seed(1)
    model = build_model(SIZE, recipe.arch, VOCABULARY)
    optimizer = build_optimizer(recipe.optimizer, model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: multiplier(recipe.schedule, (step + 0.5) / STEPS)
    )
    losses = []
    for batch in text():
        optimizer.zero_grad()
        loss = model(batch[:, :-1], batch[:, 1:]) / batch[:, 1:].numel()
        loss.backward()
        if recipe.optimizer.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses


def read(name: str) -> list[float]:
    """A curve of tests/golden."""
    with (GOLDEN / f"{name}.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def write(name: str) -> None:
    """Put a curve into tests/golden."""
    rows = [f"{step},{loss:.6f}\n" for step, loss in enumerate(curve(RECIPES[name]), start=1)]
    (GOLDEN / f"{name}.csv").write_text("".join(["step,loss\n", *rows]), newline="\n")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small a model gains nothing by a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(RECIPES))
def test_curve(name: str) -> None:
    tolerance = MUON_TOLERANCE if RECIPES[name].optimizer is MUON else TOLERANCE
    assert curve(RECIPES[name]) == pytest.approx(read(name), rel=tolerance)


def test_every_architecture_has_a_curve() -> None:
    assert {recipe.arch.name for recipe in RECIPES.values()} == set(ARCHITECTURES)


def test_every_curve_is_one_of_these() -> None:
    assert {path.stem for path in GOLDEN.glob("*")} == set(RECIPES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The golden curves.")
    parser.add_argument("--write", action="store_true", required=True, help="write them anew")
    parser.parse_args()
    GOLDEN.mkdir(exist_ok=True)
    for name in RECIPES:
        write(name)
        print(f"tests/golden/{name}.csv")
