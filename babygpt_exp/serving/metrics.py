"""What the server counts, and Prometheus' text format 0.0.4 of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamer.prometheus import Family, exposition

PREFIX = "babygpt_serve_"

FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the times until a first token, in seconds."""

TOKEN_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the times from token to token, in seconds."""


class Histogram:
    """How often a value was at most each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """A value was seen."""
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), -1)
        self._counts[place] += 1
        self._sum += value

    def lines(self, name: str, description: str) -> Iterable[str]:
        """Those of a histogram of this name."""
        name = PREFIX + name
        yield f"# HELP {name} {description}"
        yield f"# TYPE {name} histogram"
        so_far = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            so_far += count
            yield f'{name}_bucket{{le="{bound}"}} {so_far}'
        yield f"{name}_sum {self._sum:.15g}"
        yield f"{name}_count {so_far}"


@dataclass
class Metrics:
    """All that is counted; the worker's thread adds to some, the event loop to the others."""

    num_slots: int
    """Texts at a time."""
    began: float = field(default_factory=time.monotonic)
    """When the server started."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests for completions that were answered, by their status."""
    texts: Counter[str] = field(default_factory=Counter)
    """Texts that came to their end, by the reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """Connections that came to nothing, by the reason; the gate counts them."""
    num_prompt_tokens: int = 0
    """Tokens of prompts of texts that were accepted."""
    num_completion_tokens: int = 0
    """Tokens that were written."""
    num_steps: int = 0
    """Steps of the engine."""
    num_cancelled: int = 0
    """Texts that nobody waited for any more."""
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BOUNDS))
    """From a request to the first token of each text, waiting for a slot included."""
    token_seconds: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS))
    """Mean time from token to token of each text."""

    def count_text(self, reason: str, num_tokens: int, seconds: float) -> None:
        """A text has ended, this long after its first token."""
        self.texts[reason] += 1
        if num_tokens > 1:
            self.token_seconds.observe(seconds / (num_tokens - 1))

    @property
    def uptime_seconds(self) -> float:
        """How long the server has been there."""
        return time.monotonic() - self.began

    def prometheus(self, num_active: int, num_waiting: int) -> str:
        """All of it, and what is so at this moment."""
        families: list[Family] = [
            ("requests_total", "counter", "Requests answered.", "status", self.requests),
            ("texts_total", "counter", "Texts ended.", "finish_reason", self.texts),
            ("refused_total", "counter", "Connections refused.", "reason", self.refused),
            ("cancelled_total", "counter", "Texts given up.", "", self.num_cancelled),
            ("prompt_tokens_total", "counter", "Tokens read.", "", self.num_prompt_tokens),
            ("completion_tokens_total", "counter", "Written.", "", self.num_completion_tokens),
            ("steps_total", "counter", "Steps of the engine.", "", self.num_steps),
            ("slots", "gauge", "Texts at a time.", "", self.num_slots),
            ("slots_busy", "gauge", "Texts being written.", "", num_active),
            ("queue_length", "gauge", "Texts without a slot yet.", "", num_waiting),
            ("uptime_seconds", "gauge", "Since the start.", "", self.uptime_seconds),
        ]
        first = self.first_token_seconds.lines("first_token_seconds", "Until a first token.")
        each = self.token_seconds.lines("token_seconds", "From token to token, of a text.")
        return exposition(PREFIX, families, [*first, *each])
