"""Filters of logits (B, V) as pure functions, each row with a setting of its own (B, 1).

A filter compares logits with a bound of their row and puts those below at minus infinity. Equal
logits stay or go together, and no other row has a part in it: a row gives the same in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalize(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Logits of tokens that are `seen` (B, V), made less likely by a penalty above 1."""
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


def keep_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """The k largest logits of each row; 0 keeps all."""
    counts = top_k.clamp(max=logits.size(-1))
    largest = logits.topk(max(1, int(counts.max()))).values  # (B, k)
    smallest = largest.gather(-1, (counts - 1).clamp(min=0))
    return keep_from(logits, smallest.masked_fill(top_k == 0, -torch.inf))


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """The fewest likeliest tokens of each row that have a chance of `top_p`; 1 keeps all."""
    ordered = logits.sort(descending=True).values
    chances = ordered.double().softmax(-1)
    before = chances.cumsum(-1) - chances  # of all that are likelier
    needed = (before < top_p) | (top_p >= 1)
    needed[:, 0] = True
    return keep_from(logits, ordered.masked_fill(~needed, torch.inf).amin(-1, keepdim=True))


def keep_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Tokens with at least `min_p` of the chance of their row's likeliest one; 0 keeps all."""
    largest = logits.amax(-1, keepdim=True)
    return keep_from(logits, torch.minimum(largest, largest + min_p.log()))


def keep_from(logits: Tensor, bound: Tensor) -> Tensor:
    """Logits from a bound (B, 1) upwards; the others at minus infinity."""
    return logits.masked_fill(logits < bound, -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """A token for each row, (B,), as a number of [0, 1), (B, 1), points at among the chances.

    Sums are made token by token in float64: they are the same wherever a row stands.
    """
    weights = (logits - logits.amax(-1, keepdim=True)).double().exp()
    sums = weights.cumsum(-1)
    return torch.searchsorted(sums, uniform * sums[:, -1:], right=True).squeeze(-1)
