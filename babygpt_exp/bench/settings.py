"""What the benchmark itself can be told, beside the config that it measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchSettings:
    """How long is measured, and how often."""

    overrides: list[str]
    """Overrides of the configuration, as for training."""
    seconds: float
    """Least length of each window: of training, of the bare loop, of the stream, of the peak."""
    pairs: int
    """Windows of the bare loop; there is one more of training, around them."""
