"""What is asked of the engine: a prompt, how to draw, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

from babygpt_exp.sampling import Settings
from babygpt_exp.typed import refuse


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
