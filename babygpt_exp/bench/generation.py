"""How fast a trained model writes, with its cache and without."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from babygpt_exp.config import Config
from babygpt_exp.model import Decoder
from babygpt_exp.peak import synchronize
from babygpt_exp.sampling import draw, generate

UNCACHED_TOKENS = 16
"""Tokens that are generated without a cache: each costs a forward of the whole text before it."""

NEVER = -1
"""No token ends the text: the model of a benchmark knows no end yet."""


@torch.no_grad()
def generation_figures(config: Config, model: Decoder, prompt: list[int]) -> dict[str, Any]:
    """Tokens a second of one text that fills the context.

    With the cache it is the whole text; without, tokens at even distances in the same text, so
    that short and long beginnings count alike.
    """
    count = config.model.context - len(prompt)
    sampling = replace(config.sampling, max_new_tokens=count)
    device = next(model.parameters()).device
    generate(model, prompt, NEVER, replace(sampling, max_new_tokens=2), seed=0)
    start = time.perf_counter()
    text = prompt + generate(model, prompt, NEVER, sampling, seed=0)
    synchronize(device)
    cached_seconds = time.perf_counter() - start
    generator = torch.Generator(device).manual_seed(0)
    lengths = range(len(prompt), len(text), max(1, count // UNCACHED_TOKENS))
    start = time.perf_counter()
    for length in lengths:
        tokens = torch.tensor([text[:length]], device=device)  # (1, T)
        logits = model.logits(model.hidden(tokens)[:, -1])  # (1, V)
        int(draw(logits, sampling, generator))
    uncached_seconds = time.perf_counter() - start
    return {
        "generate_tokens_per_s": round((len(text) - len(prompt)) / cached_seconds, 1),
        "generate_tokens": len(text) - len(prompt),
        "generate_uncached_tokens_per_s": round(len(lengths) / uncached_seconds, 1),
        "generate_uncached_tokens": len(lengths),
    }
