"""Requests written to the end, and a model made ready for it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from babygpt_exp.generation.engine import Engine, FinishReason, Written
from babygpt_exp.generation.request import Request
from babygpt_exp.model import Decoder


@dataclass
class Generated:
    """What was written for a request."""

    text: str = ""
    """Its characters, up to a stop string."""
    tokens: list[int] = field(default_factory=list)
    """Its tokens, without the end of text; those of a stop string are among them."""
    seconds: float = 0.0
    """From the request's turn to its last token."""
    finish_reason: FinishReason = "length"
    """Why it ended."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of this text, computing the prompt included."""
        return len(self.tokens) / self.seconds if self.seconds else 0.0


def generate(
    engine: Engine,
    requests: Sequence[Request],
    show: Callable[[int, Written], None] | None = None,
) -> list[Generated]:
    """Texts of all requests, each beginning when a slot is free.

    `show` is told each token as it comes, with the number of its request.
    """
    found = [Generated() for _ in requests]
    started: dict[int, tuple[int, float]] = {}  # by slot
    waiting = list(range(len(requests)))[::-1]
    while waiting or started:
        while waiting and engine.num_free:
            number = waiting.pop()
            started[engine.add(requests[number])] = number, time.perf_counter()
        for written in engine.step():
            number, start = started[written.slot]
            one = found[number]
            one.text += written.text
            if written.token != engine.tokenizer.end_of_text:
                one.tokens.append(written.token)
            if written.finish_reason is not None:
                one.finish_reason = written.finish_reason
                one.seconds = time.perf_counter() - start
                del started[written.slot]
            if show is not None:
                show(number, written)
    return found


def for_writing(model: Decoder, dtype: torch.dtype) -> Decoder:
    """The model with its weights in a type: itself, or a copy of it.

    Tables of rotary positions stay in float32. Weights are converted once here; autocast would
    convert them for every token.
    """
    if all(p.dtype == dtype for p in model.parameters()):
        return model
    converted = copy.deepcopy(model).requires_grad_(False)
    for p in converted.parameters():
        p.data = p.data.to(dtype)
    return converted
