"""Which tokens a model sees when a token is scored: windows over a text of any length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A text to score, behind what it is predicted from."""

    tokens: list[int]
    """All tokens, the end of text that it starts from among them."""
    first: int
    """Place of the first token that is scored, at least 1; all behind it are as well."""


@dataclass(frozen=True)
class Window:
    """A part of a passage that the model sees at once, as places in `Passage.tokens`."""

    start: int
    """Its first token."""
    scored: int
    """The first token that is scored in it; those before are context."""
    end: int
    """Behind its last token, which is scored but no input."""

    @property
    def num_inputs(self) -> int:
        """Tokens that go into the model."""
        return self.end - self.start - 1


def windows(num_tokens: int, first: int, context: int, stride: int) -> Iterator[Window]:
    """The windows of a passage: every token from `first` on is scored in one of them.

    The first scores `context` tokens, the others `stride`, the last what is left. Each reaches
    back as far as the context allows, the last one too (as lm-eval's rolling windows do).
    """
    scored, num_scored = first, context
    while scored < num_tokens:
        end = min(scored + num_scored, num_tokens)
        yield Window(max(0, end - 1 - context), scored, end)
        scored, num_scored = end, stride
