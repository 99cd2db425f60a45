"""What is asked of the engine: a prompt, how to draw, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST_SEED = 2**64 - 1
"""Seeds go up to here."""


@dataclass(frozen=True)
class Settings:
    """How tokens are drawn; the defaults draw from the model's own chances.

    In this order: repetition penalty, temperature, top-k, top-p, min-p.
    """

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token always."""
    top_k: int = 0
    """Draw from the likeliest k tokens; 0 draws from all."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that have this chance together
    (https://arxiv.org/abs/1904.09751); 1 draws from all."""
    min_p: float = 0.0
    """Draw from tokens with at least this part of the likeliest one's chance
    (https://arxiv.org/abs/2407.01082); 0 draws from all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that prompt or text have already are divided by it if above zero, else
    multiplied (https://arxiv.org/abs/1909.05858); 1 leaves them as they are."""
    seed: int = 0
    """Seed of the draws; with the same settings it gives the same text."""

    def __post_init__(self) -> None:
        rules = {
            "temperature": (0 <= self.temperature < math.inf, "0 or above"),
            "top_k": (self.top_k >= 0, "0 (off) or above"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0; 1 is off"),
            "seed": (0 <= self.seed <= LARGEST_SEED, "between 0 and 2^64 - 1"),
        }
        refuse(self, rules)


@dataclass(frozen=True)
class Request:
    """A text to write."""

    prompt: tuple[int, ...]
    """Tokens that it goes on from; a text from its very start begins with the end of text."""
    max_new_tokens: int
    """Most tokens to add; what is asked for otherwise ends it earlier."""
    settings: Settings
    """How they are drawn."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are no part of it."""
    num_top_logprobs: int | None = None
    """Likeliest tokens to tell with each one; None tells no log chance at all."""

    def __post_init__(self) -> None:
        rules = {
            "prompt": (len(self.prompt) > 0, "one token at least"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "stop": (all(self.stop), "strings with a character at least"),
            "num_top_logprobs": ((self.num_top_logprobs or 0) >= 0, "0 or above"),
        }
        refuse(self, rules)


def refuse(asked: object, rules: dict[str, tuple[bool, str]]) -> None:
    """ValueError that names every field that breaks its rule."""
    problems = [
        f"{name}={getattr(asked, name)} must be {what}"
        for name, (holds, what) in rules.items()
        if not holds
    ]
    if problems:
        raise ValueError("; ".join(problems))
