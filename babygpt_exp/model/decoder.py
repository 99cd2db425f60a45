"""What every architecture is to the rest of the program."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.cache import Cache, Place
from babygpt_exp.model.config import ModelConfig
from babygpt_exp.model.loss import Loss, cap, chunked_nats


class Decoder(nn.Module, ABC):
    """Tokens in, nats out. A subclass makes `layers` and gives `hidden`; the rest is common.

    Shapes: B sequences, T positions, C channels, V tokens.
    """

    layers: nn.ModuleList
    """The blocks in series."""

    def __init__(
        self,
        model: ModelConfig,
        vocab_size: int,
        *,
        tied: bool = False,
        head_bias: bool = False,
        softcap: float = 0.0,
    ) -> None:
        """`tied` makes the embedding the head too; `softcap` above 0 caps the logits."""
        super().__init__()
        self.context, self.num_heads, self.softcap = model.context, model.num_heads, softcap
        self.embedding = nn.Embedding(vocab_size, model.width)
        self.lm_head = nn.Linear(model.width, vocab_size, bias=head_bias)
        if tied:
            self.lm_head.weight = self.embedding.weight

    @abstractmethod
    def hidden(self, tokens: Tensor, place: Place | None = None) -> Tensor:
        """Final channels (B, T, C) of tokens (B, T): of whole texts, or at a place in a cache."""

    def new_cache(self, num_slots: int, dtype: torch.dtype) -> Cache:
        """An empty cache for as many texts, where the model is."""
        weight = self.embedding.weight
        shape = (num_slots, self.num_heads, self.context, weight.size(1) // self.num_heads)
        return Cache(len(self.layers), shape, dtype, weight.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) in float32 of final channels (..., C)."""
        return cap(F.linear(hidden, self.lm_head.weight, self.lm_head.bias).float(), self.softcap)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Sum of the nats of targets (B, T) given tokens (B, T), in float32.

        Positions whose target is IGNORE count nothing.
        """
        return self.nats(self.hidden(tokens), targets)

    def nats(self, hidden: Tensor, targets: Tensor, loss: Loss = chunked_nats) -> Tensor:
        """Sum of the nats of targets (B, T) given final channels (B, T, C), by a `loss`."""
        head = self.lm_head
        flat = hidden.flatten(0, 1)  # (B * T, C)
        return loss(flat, head.weight, head.bias, targets.flatten(), self.softcap)

    def matrices(self) -> list[Tensor]:
        """Weights (out, in) that activations are multiplied with: no look-up, but the head."""
        return [p for p in self.layers.parameters() if p.ndim == 2] + [self.lm_head.weight]

    def num_matmul_parameters(self) -> int:
        """N of the FLOPs formula: numbers in `matrices`."""
        return sum(matrix.numel() for matrix in self.matrices())
