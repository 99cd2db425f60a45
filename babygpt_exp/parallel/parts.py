"""Tensors that are spread over processes (DTensor): all of one, and what a process has of it.

DTensor is imported where there are several processes only: it takes a second.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def is_spread(value: Any) -> bool:
    """Whether it is a tensor of which each process has a part."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def whole(value: Any) -> Any:
    """A tensor that is spread over processes, in one piece; they ask together."""
    return value.full_tensor() if is_spread(value) else value


def own_part(value: Any) -> Any:
    """What this process has of a tensor; shares its memory."""
    return value.to_local() if is_spread(value) else value


def part_like(value: Tensor, like: Any) -> Tensor:
    """What this process has of a whole tensor, if that is spread as another one is."""
    if not is_spread(like) or is_spread(value):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    same = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return same.redistribute(placements=like.placements)
