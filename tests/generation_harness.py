"""Texts of untrained models: requests, and the same by plain loops."""

from __future__ import annotations

from typing import Any

import torch
from experiment_harness import architecture

from babygpt_exp.generation.engine import Engine, Written
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.model import Decoder, ModelConfig, build_model
from babygpt_exp.sampling import Settings
from babygpt_exp.tokenizer import TextTokenizer, train_bpe

CONTEXT = 16
TOKENIZER = train_bpe(257, [])
"""A byte a token, and the end of text."""
ENDLESS = TextTokenizer(TOKENIZER.inner, end_of_text=-1)
VOCABULARY = TOKENIZER.vocab_size
GREEDY = Settings(temperature=0.0)
PROMPTS = tuple(tuple(range(60, 60 + size)) for size in (1, 5, 15, 16, 40))
"""Shorter than the context, as long, and longer."""
SETTINGS = (
    Settings(seed=1),
    Settings(seed=2, temperature=0.7, top_k=20),
    GREEDY,
    Settings(seed=3, top_p=0.8, repetition_penalty=1.3),
    Settings(seed=4, temperature=1.5, top_k=50, top_p=0.9, min_p=0.02),
)


def shaken(arch: str) -> Decoder:
    """A small model whose logits differ from token to token."""
    torch.manual_seed(1)
    size = ModelConfig(2, 32, 4, CONTEXT, 64, 640)
    made = build_model(size, architecture(arch), VOCABULARY).requires_grad_(False)
    for p in made.parameters():
        p += 0.3 * torch.randn_like(p)
    return made


def requests(count: int = 24, chosen: tuple[Settings, ...] = SETTINGS) -> list[Request]:
    return [Request(prompt, count, one) for prompt, one in zip(PROMPTS, chosen, strict=True)]


def tokens(
    model: Decoder, asked: list[Request], num_slots: int = 3, **options: Any
) -> list[list[int]]:
    engine = Engine(model, ENDLESS, num_slots, **options)
    return [generated.tokens for generated in generate(engine, asked)]


def run(engine: Engine) -> list[Written]:
    """All that is written until no text is left."""
    found = []
    while engine.is_busy:
        found += engine.step()
    return found


def plain_greedy(model: Decoder, prompt: tuple[int, ...], count: int) -> list[int]:
    """The likeliest tokens, by as few lines as can be."""
    text = list(prompt)
    start = max(0, len(text) - CONTEXT)
    for _ in range(count):
        if len(text) - start > CONTEXT:
            start = len(text) - CONTEXT // 2
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([text[start:]]))
        text.append(int(model.logits(hidden[0, -1]).argmax()))
    return text[len(prompt) :]
