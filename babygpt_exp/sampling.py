"""Group `sampling`: how samples are drawn while a model learns, and afterwards by default."""

from __future__ import annotations

from dataclasses import dataclass

from babygpt_exp.generation.request import Settings


@dataclass
class SamplingConfig:
    """How samples are drawn during training."""

    num_auto: int
    """Samples a round that start from validation text, of kind `auto`."""
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
