"""Blocks of the stream as tensors: micro-batches of inputs and targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from babygpt_exp.data.instructions import is_in_response
from babygpt_exp.model import IGNORE
from streamer.client import Batch


@dataclass  # not frozen, since Lightning's half precision copies batches field by field
class MicroBatch:
    """A part of a batch that is computed at once."""

    tokens: Tensor
    """Inputs, (B, T), int64."""
    targets: Tensor
    """The next tokens, (B, T), int64; IGNORE where there is none, and where it is a prompt's."""
    num_tokens: int
    """Tokens of text that follow on an input: all but padding."""
    num_targets: int
    """Targets that count: the same, or of instructions those of responses."""
    share_targets: float
    """Targets of the whole batch over its number of parts: divides the sum of nats, so that
    the mean over the parts is the mean over the batch."""
    next: dict[str, Any] | None
    """Cursor behind the batch, in its last part; None in the others."""
    text_bytes: float = 0.0
    """UTF-8 bytes of text that the targets stand for; counted for validation only."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same with its tensors on a device."""
        move = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens", "targets")
        }
        return MicroBatch(**{**vars(self), **move})


def split(batch: Batch, rows: int, prompt_end: int | None = None) -> Iterator[MicroBatch]:
    """Micro-batches of `rows` blocks each.

    `prompt_end` is the end of text of instructions, of which only responses count; None of text.

    A batch that does not divide evenly (the last of a validation split) is filled up with
    rows that count nothing, so that every tensor has one shape.
    """
    num_parts = -(-len(batch.tokens) // rows)
    blocks = np.zeros((num_parts * rows, batch.tokens.shape[1]), dtype=np.int64)
    blocks[: len(batch.tokens)] = batch.tokens
    lengths = np.ones(len(blocks), dtype=np.int64)
    lengths[: len(batch.lengths)] = batch.lengths
    targets = blocks[:, 1:].copy()
    targets[np.arange(targets.shape[1]) >= lengths[:, None] - 1] = IGNORE
    if prompt_end is not None:
        targets[~is_in_response(blocks[:, :-1], prompt_end)] = IGNORE
    counts = (targets != IGNORE).sum(axis=1)  # (num_rows,)
    share = float(max(1, counts.sum())) / num_parts  # never 0: a sum of no nats is divided by it
    for start in range(0, len(blocks), rows):
        part = slice(start, start + rows)
        yield MicroBatch(
            tokens=torch.from_numpy(blocks[part, :-1].copy()),
            targets=torch.from_numpy(targets[part]),
            num_tokens=int((lengths[part] - 1).sum()),
            num_targets=int(counts[part].sum()),
            share_targets=share,
            next=batch.next if start + rows == len(blocks) else None,
        )
