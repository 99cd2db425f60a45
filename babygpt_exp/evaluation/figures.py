"""What a loss means: nats a token, and bits a byte, which compares tokenizers."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """Sums over the text that a model was evaluated on."""

    nats: float
    """Minus the logarithm of the probability of all targets."""
    num_targets: int
    """Targets; in the validation of a run ends of text among them."""
    text_bytes: float
    """UTF-8 bytes of the text that they stand for; an end of text stands for none."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.num_targets

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 * bytes): the length of the text, compressed with the model."""
        return self.nats / (math.log(2) * self.text_bytes)
