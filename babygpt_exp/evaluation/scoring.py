"""Scoring: nats of passages, many windows at a time.

What a passage gets depends on nothing but itself: windows never see each other, and a batch has
windows of about one length, filled up to it behind their last token, where a causal model does
not look.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from babygpt_exp.evaluation.windows import Passage, Window, windows
from babygpt_exp.model import IGNORE, Decoder
from babygpt_exp.model.loss import CHUNK_POSITIONS

BATCH = 16
"""Windows at a time: enough for a small model on a CPU or a GPU."""

Precision = Literal["fp32", "bf16"]
"""Arithmetic: float32, or what bf16-mixed trains in."""


@dataclass(frozen=True)
class Score:
    """How likely a passage is."""

    nats: float
    """Minus the logarithm of the probability of its scored tokens."""
    num_tokens: int
    """Scored tokens."""
    is_greedy: bool
    """Whether each of them is the likeliest one at its place."""


@dataclass
class Tally:
    """What is known of a passage so far."""

    nats: list[float]
    num_tokens: int = 0
    is_greedy: bool = True

    def add(self, nats: Tensor, is_greedy: Tensor) -> None:
        """Count the scored tokens of a window: their nats (N,), and whether greedy (N,)."""
        self.nats.append(float(nats.sum(dtype=torch.float64)))
        self.num_tokens += len(nats)
        self.is_greedy = self.is_greedy and bool(is_greedy.all())

    def score(self) -> Score:
        """The sum, exact and so the same in whatever order windows were computed."""
        return Score(math.fsum(self.nats), self.num_tokens, self.is_greedy)


@dataclass(frozen=True)
class Row:
    """A window on its way into a batch."""

    tokens: list[int]
    """Inputs, and behind them the last target."""
    num_scored: int
    """Targets that count: the last ones."""
    tally: Tally
    """Where they count."""

    @staticmethod
    def of(passage: Passage, window: Window, tally: Tally) -> Row:
        """The row of a passage's window."""
        return Row(passage.tokens[window.start : window.end], window.end - window.scored, tally)


def score(
    model: Decoder,
    passages: Iterable[Passage],
    *,
    batch: int = BATCH,
    stride: int | None = None,
    precision: Precision = "fp32",
) -> list[Score]:
    """Scores of passages, on the model's device; passages are taken as they are needed.

    Windows overlap by all but `stride` tokens; None is the context: they do not overlap.
    """
    tallies: list[Tally] = []
    waiting: dict[int, list[Row]] = defaultdict(list)
    context = model.context
    for passage in passages:
        tallies.append(Tally([]))
        for window in windows(len(passage.tokens), passage.first, context, stride or context):
            length = padded_length(window.num_inputs, context)
            waiting[length].append(Row.of(passage, window, tallies[-1]))
            if len(waiting[length]) == batch:
                score_rows(model, waiting.pop(length), length, precision)
    for length, rows in waiting.items():
        score_rows(model, rows, length, precision)
    return [tally.score() for tally in tallies]


def padded_length(num_inputs: int, context: int) -> int:
    """The next power of two, at most the context: windows in a batch are of one length.

    It goes by the window alone, not by what else is in the batch, so that the same numbers are
    added up in the same order whatever the batch is.
    """
    return min(context, 1 << (num_inputs - 1).bit_length())


@torch.inference_mode()
def score_rows(model: Decoder, rows: list[Row], length: int, precision: Precision) -> None:
    """Compute rows at once, and count what they give."""
    device = next(model.parameters()).device
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORE)
    for i, row in enumerate(rows):
        end = len(row.tokens) - 1
        tokens[i, :end] = torch.tensor(row.tokens[:-1])
        targets[i, end - row.num_scored : end] = torch.tensor(row.tokens[-row.num_scored :])
    tokens, targets = tokens.to(device), targets.to(device)
    with arithmetic(device, precision):
        hidden = model.hidden(tokens)[targets != IGNORE]  # (N, C)
        nats, is_greedy = nats_of(model, hidden, targets[targets != IGNORE])
    counts = [row.num_scored for row in rows]
    parts = zip(
        rows, torch.split(nats.cpu(), counts), torch.split(is_greedy.cpu(), counts), strict=True
    )
    for row, row_nats, row_greedy in parts:
        row.tally.add(row_nats, row_greedy)


def nats_of(model: Decoder, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of targets (N,) given final channels (N, C), and whether each is the likeliest."""
    nats, is_greedy = [], []
    for part, wanted in zip(
        torch.split(hidden, CHUNK_POSITIONS), torch.split(targets, CHUNK_POSITIONS), strict=True
    ):
        logits = model.logits(part)  # (N, V)
        nats.append(F.cross_entropy(logits, wanted, reduction="none"))
        is_greedy.append(logits.argmax(-1) == wanted)
    return torch.cat(nats), torch.cat(is_greedy)


def arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context that computes in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
