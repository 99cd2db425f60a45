"""Parts that the architectures share: attention with a cache, rotary positions, the loss.

Shapes: B sequences, T positions, C channels, H heads, D = C / H channels a head, V tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100
"""Target of a padded position: it counts in no loss (torch's own convention)."""


@dataclass
class Cache:
    """Keys and values of the positions seen so far, one pair of tensors a block.

    `keys[i]` and `values[i]` have shape (B, H, context, D); they are made by the first call
    and written in place. `length` is the number of positions filled.
    """

    context: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    length: int = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v (B, H, T, D) behind the `length` positions; gives all so far."""
        if layer == len(self.keys):
            shape = (*k.shape[:2], self.context, k.size(3))
            self.keys.append(k.new_zeros(shape))
            self.values.append(v.new_zeros(shape))
        end = self.length + k.size(2)
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over channels, without gain (https://arxiv.org/abs/1910.07467)."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_table(context: int, head_width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (https://arxiv.org/abs/2104.09864).

    Returns two tensors of shape (context, D / 2).
    """
    channels = torch.arange(0, head_width, 2, dtype=torch.float32)
    frequencies = 1.0 / base ** (channels / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + D/2) of x (B, H, T, D) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, C) to (B, H, T, D)."""
    batch, length, width = x.shape
    return x.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, cache: Cache | None, layer: int) -> Tensor:
    """Causal attention of q over k and v, all (B, H, T, D), and over the cache; gives (B, T, C)."""
    mask = None
    if cache is not None:
        start = cache.length
        k, v = cache.append(layer, k, v)
        if start:  # queries stand behind `start` keys
            shape = (q.size(2), k.size(2))
            mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(start)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return y.transpose(1, 2).flatten(2)  # (B, T, C)


class Decoder(nn.Module, ABC):
    """What every architecture is to the rest of the program.

    A subclass gives `hidden` and `logits`; loss, cache and counts are common to all.
    """

    context: int
    num_heads: int

    @abstractmethod
    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Final channels (B, T, C) of tokens (B, T)."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) in float32 of final channels (..., C)."""

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Sum of the nats of targets (B, T) given tokens (B, T), in float32.

        Positions whose target is IGNORE count nothing.
        """
        logits = self.logits(self.hidden(tokens)).flatten(0, 1)  # (B * T, V)
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")

    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The blocks in series."""

    @abstractmethod
    def head(self) -> nn.Linear:
        """The last matrix, from channels to logits."""

    def num_matmul_parameters(self) -> int:
        """Weights that multiply activations: N of the FLOPs formula (no look-up, with head)."""
        matrices = sum(p.numel() for p in self.blocks().parameters() if p.ndim == 2)
        return matrices + self.head().weight.numel()
