"""The loss: summed nats of targets, computed a few rows of logits at a time.

The logits of a batch are by far its largest tensor: 8,192 positions of a vocabulary of 8,192 are
268 MB in float32, and a plain cross entropy keeps several of that size. Here each chunk's logits
live only as long as it takes to get the loss and its gradients from them, in the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Target of a padded position: it counts in no loss (torch's own convention)."""

CHUNK_POSITIONS = 512
"""Rows of logits at once."""

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor, float], Tensor]
"""Summed nats of targets (N,) given hidden (N, C), a head (V, C), its bias (V,) and a softcap."""

Gradients = Callable[[Tensor, Tensor, Tensor | None, Tensor, float], tuple[Tensor, ...]]
"""`chunk_gradients`, or the same compiled."""


def cap(logits: Tensor, softcap: float) -> Tensor:
    """softcap * tanh(logits / softcap), as Gemma 2 has it; 0 leaves the logits as they are."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def plain_nats(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float
) -> Tensor:
    """A Loss that holds all logits at once."""
    logits = cap(F.linear(hidden, weight, bias).float(), softcap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def chunk_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float
) -> tuple[Tensor, ...]:
    """A chunk's summed nats, and their gradients by hidden (N, C), weight (V, C) and bias (V,)."""
    logits = cap(F.linear(hidden, weight, bias).float(), softcap)  # (N, V)
    log_total = logits.logsumexp(-1, keepdim=True)  # (N, 1)
    counts = (targets != IGNORE).unsqueeze(-1)
    index = targets.clamp(min=0).unsqueeze(-1)
    nats = ((log_total - logits.gather(-1, index)) * counts).sum()
    slope = (logits - log_total).exp()
    slope = slope.scatter_add(-1, index, slope.new_full(index.shape, -1.0)) * counts
    if softcap:
        slope = slope * (1 - (logits / softcap).square())
    slope = slope.to(hidden.dtype)
    by_bias = hidden.new_zeros(()) if bias is None else slope.sum(0, dtype=torch.float32)
    return nats, slope @ weight, slope.T @ hidden, by_bias


def chunked_nats(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    softcap: float,
    gradients: Gradients = chunk_gradients,
) -> Tensor:
    """A Loss with the value and gradients of `plain_nats` in a fraction of its memory."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    if torch.is_grad_enabled():
        nats: Tensor = _ChunkedNats.apply(hidden, weight, bias, targets, softcap, gradients)
        return nats
    chunks = zip(
        torch.split(hidden, CHUNK_POSITIONS), torch.split(targets, CHUNK_POSITIONS), strict=True
    )
    return torch.stack([plain_nats(h, weight, bias, t, softcap) for h, t in chunks]).sum()


class _ChunkedNats(torch.autograd.Function):
    """Gradients are made with the loss; the backward pass only scales them."""

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float,
        gradients: Gradients,
    ) -> Tensor:
        head = weight.to(hidden.dtype)
        head_bias = None if bias is None else bias.to(hidden.dtype)
        nats = torch.zeros((), device=hidden.device)
        by_hidden = torch.empty_like(hidden)
        by_weight = torch.zeros(weight.shape, device=hidden.device)
        by_bias = torch.zeros(() if bias is None else bias.shape, device=hidden.device)
        for start in range(0, len(hidden), CHUNK_POSITIONS):
            rows = slice(start, start + CHUNK_POSITIONS)
            part = gradients(hidden[rows], head, head_bias, targets[rows], softcap)
            nats += part[0]
            by_hidden[rows] = part[1]
            by_weight += part[2]
            by_bias += part[3]
        context.save_for_backward(by_hidden, by_weight, by_bias)
        context.types = weight.dtype, None if bias is None else bias.dtype
        return nats

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight, by_bias = context.saved_tensors
        weight_type, bias_type = context.types
        return (
            by_hidden * gradient.to(by_hidden.dtype),
            (by_weight * gradient).to(weight_type),
            None if bias_type is None else (by_bias * gradient).to(bias_type),
            None,
            None,
            None,
        )
