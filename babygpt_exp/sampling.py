"""Group `sampling`: how samples are drawn while a model learns, and afterwards by default."""

from __future__ import annotations

import math
from dataclasses import dataclass

from babygpt_exp.typed import refuse

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


@dataclass
class SamplingConfig:
    """How samples are drawn during training."""

    num_auto: int
    """Samples a round that start from validation text, of kind `auto`, one from each of its first
    blocks: fewer where it has fewer."""
    prompt_tokens: int
    """Tokens of validation text that such a sample starts from."""
    max_new_tokens: int
    """Most tokens to add to a prompt; the end of text ends it earlier."""
    temperature: float
    """Logits are divided by it; 0 takes the likeliest token always."""
    top_k: int
    """Draw from the likeliest k tokens; 0 draws from all."""
    top_p: float
    """Draw from the fewest likeliest tokens that have this chance together; 1 draws from all."""
    min_p: float
    """Draw from tokens with at least this part of the likeliest one's chance; 0 draws from all."""
    repetition_penalty: float
    """Makes tokens less likely that were there already; 1 leaves them as they are."""

    def __post_init__(self) -> None:
        problems = [
            f"sampling.{name}={getattr(self, name)} must be at least {least}"
            for name, least in (("num_auto", 0), ("prompt_tokens", 1), ("max_new_tokens", 1))
            if getattr(self, name) < least
        ]
        try:
            self.settings(0)
        except ValueError as error:
            problems += [f"sampling.{problem}" for problem in str(error).split("; ")]
        if problems:
            raise ValueError("; ".join(problems))

    def settings(self, seed: int) -> Settings:
        """The same for a request."""
        return Settings(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
        )
