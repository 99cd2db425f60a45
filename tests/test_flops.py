"""Arithmetic a token by the formula, and the share of a peak, by table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from experiment_harness import architecture

from babygpt_exp.flops import flops_per_token, utilization
from babygpt_exp.model import Decoder, ModelConfig, build_model

BABY = ModelConfig(
    num_layers=4, width=512, num_heads=8, context=512, batch_tokens=8192, budget_tokens=10**6
)


def baby(arch: str, **changes: Any) -> Decoder:
    with torch.device("meta"):
        return build_model(BABY, architecture(arch, **changes), 8192)


@pytest.mark.parametrize(
    ("arch", "num_blocks", "block_parameters", "megaflops"),
    [
        ("modern", 4, 12 * 512**2, 113.2),
        ("gpt2", 4, 12 * 512**2, 113.2),
        ("eir", 8, 16 * 512**2, 251.7),  # two decoders of four blocks, SwiGLU four times as wide
    ],
)
def test_baby_costs_what_its_matrices_and_its_attention_cost(
    arch: str, num_blocks: int, block_parameters: int, megaflops: float
) -> None:
    model = baby(arch)
    products = 6 * (num_blocks * block_parameters + 8192 * 512)
    attention = 12 * num_blocks * 512 * 512
    assert flops_per_token(BABY, model) == products + attention
    assert flops_per_token(BABY, model, causal=True) == products + attention / 2
    assert flops_per_token(BABY, model) / 1e6 == pytest.approx(megaflops, abs=0.05)


@pytest.mark.parametrize("changes", [{"tied_head": True}, {"value_embeddings": True}])
def test_look_ups_cost_nothing(changes: dict[str, bool]) -> None:
    assert flops_per_token(BABY, baby("modern", **changes)) == flops_per_token(BABY, baby("modern"))


@pytest.mark.parametrize(
    ("tokens_per_s", "peak_flops", "share"),
    [
        (5_000, 1e12, 0.5),
        (10_000, 1e12, 1.0),
        (10_001, 1e12, None),  # nobody is faster than the peak: it is wrong
        (5_000, None, None),
        (0.0, 1e12, 0.0),
    ],
)
def test_utilization(tokens_per_s: float, peak_flops: float | None, share: float | None) -> None:
    assert utilization(1e8, tokens_per_s, peak_flops) == share
