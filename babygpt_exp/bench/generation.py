"""How fast a trained model writes: alone, beside others, without its cache, and its first token.

Everything is greedy. `generate_percent_of_matmul` compares a step of one text with the products of
the model's matrices with one row by `F.linear`, and nothing else: the least that a step can cost.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F

from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import for_writing
from babygpt_exp.model import Decoder
from babygpt_exp.peak import synchronize
from babygpt_exp.sampling import Settings
from babygpt_exp.tokenizer import TextTokenizer

BATCH = 32
"""Texts beside each other."""

PROMPT_TOKENS = 64
"""Tokens of a prompt, or half a context that is shorter than two of them."""

UNCACHED_TOKENS = 16
"""Tokens that are generated without a cache: each costs a forward of the whole context."""

REPEATS = 5
"""First tokens of which the median counts, and passes of products of which the fastest does."""

GREEDY = Settings(temperature=0.0)
"""How tokens are chosen."""


def generation_figures(
    model: Decoder, tokenizer: TextTokenizer, text: list[int], dtype: torch.dtype, compiled: bool
) -> dict[str, Any]:
    """Figures of a model with its weights in a type, from the beginning of a text.

    Texts that begin with a short prompt fill the context; they have no end of text, whatever the
    model has learned. Compiling and the first steps are left out.
    """
    model, context = for_writing(model, dtype), model.context
    prompt = text[: min(PROMPT_TOKENS, context // 2)]
    count = context - len(prompt)
    figures: dict[str, Any] = {"generate_precision": str(dtype).removeprefix("torch.")}
    figures["generate_compiled"] = compiled
    for name, num_slots in (("generate", 1), (f"generate_batch{BATCH}", BATCH)):
        engine = Engine(model, never_ending(tokenizer), num_slots, compiled=compiled)
        write(engine, prompt, count)
        rate = write(engine, prompt, count)
        figures[f"{name}_tokens_per_s"] = round(rate, 1)
        if num_slots == 1:
            figures["first_token_ms"] = round(1e3 * first_token_seconds(engine, prompt), 2)
    limit = matmul_tokens_per_s(model)
    figures["generate_percent_of_matmul"] = round(100 * figures["generate_tokens_per_s"] / limit, 1)
    uncached = Engine(model, never_ending(tokenizer), 1, cached=False)
    full = text[: max(1, context - UNCACHED_TOKENS)]
    write(uncached, full, 2)
    figures["generate_uncached_tokens_per_s"] = round(write(uncached, full, UNCACHED_TOKENS), 1)
    return figures | {"generate_tokens": count, "generate_uncached_tokens": UNCACHED_TOKENS}


def never_ending(tokenizer: TextTokenizer) -> TextTokenizer:
    """The tokenizer with an end of text that no model draws."""
    return TextTokenizer(tokenizer.inner, end_of_text=-1)


def write(engine: Engine, prompt: list[int], count: int) -> float:
    """Tokens a second behind the first ones, with as many texts as there are slots."""
    for _ in range(engine.num_slots):
        engine.add(Request(tuple(prompt), count, GREEDY))
    engine.step()
    start, num_tokens = time.perf_counter(), 0
    while engine.is_busy:
        num_tokens += len(engine.step())
    return num_tokens / (time.perf_counter() - start)


def first_token_seconds(engine: Engine, prompt: list[int]) -> float:
    """From a request to its first token, the median of some."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        engine.add(Request(tuple(prompt), 1, GREEDY))
        engine.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@torch.inference_mode()
def matmul_tokens_per_s(model: Decoder) -> float:
    """Rows a second that the model's matrices alone allow, one row at a time, at their fastest."""
    matrices = model.matrices()
    rows = {size: matrices[0].new_ones(1, size) for size in {m.size(1) for m in matrices}}
    fastest = float("inf")
    for _ in range(4 * REPEATS):
        start = time.perf_counter()
        for matrix in matrices:
            F.linear(rows[matrix.size(1)], matrix)
        synchronize(matrices[0].device)
        fastest = min(fastest, time.perf_counter() - start)
    return 1 / fastest
