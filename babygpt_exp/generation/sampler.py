"""Which token comes next in each slot, by the slot's own settings and its own random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from babygpt_exp.generation import filters
from babygpt_exp.sampling import Settings

FILTERS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor], float], ...] = (
    ("top_k", filters.keep_top_k, 0),
    ("top_p", filters.keep_top_p, 1.0),
    ("min_p", filters.keep_min_p, 0.0),
)
"""Setting, filter, and the value that switches it off, in the order of use."""

RANDOM_BITS = 32
"""Bits of a random number: few enough that a product with a sum of chances stays below it."""


class Sampler:
    """Draws for a fixed number of slots.

    A slot's random numbers come from its seed alone, one a token, by Python's own generator:
    the same on every device.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._settings: list[Settings | None] = [None] * num_slots
        self._random = [random.Random() for _ in range(num_slots)]
        self._device, self._vocab_size = device, vocab_size
        self._seen: Tensor | None = None

    def begin(self, slot: int, settings: Settings, tokens: tuple[int, ...]) -> None:
        """A new text in a slot, that has tokens already."""
        self._settings[slot] = settings
        self._random[slot].seed(settings.seed)
        if settings.repetition_penalty == 1:
            return
        if self._seen is None:
            shape = (len(self._settings), self._vocab_size)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
        self._seen[slot] = False
        self._seen[slot, torch.tensor(tokens, device=self._device)] = True

    def end(self, slot: int) -> None:
        """Nothing is drawn for a slot any more."""
        self._settings[slot] = None

    def draw(self, logits: Tensor) -> list[int]:
        """A token for each slot from logits (B, V); of no meaning where no text is."""
        settings = self._settings
        logits = self._penalized(logits)
        drawn = [i for i, chosen in enumerate(settings) if chosen and chosen.temperature > 0]
        if len(drawn) < sum(chosen is not None for chosen in settings):
            tokens: list[int] = logits.argmax(-1).tolist()
        else:
            tokens = [0] * len(settings)
        if drawn:
            for slot, token in zip(drawn, self._drawn(logits, drawn), strict=True):
                tokens[slot] = token
        if self._seen is not None:
            for slot in self._slots_with("repetition_penalty", 1):
                self._seen[slot, tokens[slot]] = True
        return tokens

    def _penalized(self, logits: Tensor) -> Tensor:
        """Logits after the repetition penalty."""
        if self._seen is None or not self._slots_with("repetition_penalty", 1):
            return logits
        penalty = [
            1.0 if chosen is None else chosen.repetition_penalty for chosen in self._settings
        ]
        seen = self._seen & torch.tensor([[value != 1] for value in penalty], device=self._device)
        return filters.penalize(logits, seen, self._column(penalty))

    def _drawn(self, logits: Tensor, slots: list[int]) -> list[int]:
        """A random token for each of some slots."""
        chosen = [settings for slot in slots if (settings := self._settings[slot])]
        rows = logits[slots]
        rows = rows - rows.amax(-1, keepdim=True)  # so that no temperature makes an infinity
        rows = rows / self._column([settings.temperature for settings in chosen])
        for name, keep, off in FILTERS:
            values = [getattr(settings, name) for settings in chosen]
            on = [i for i, value in enumerate(values) if value != off]
            if on:
                rows[on] = keep(rows[on], self._column([values[i] for i in on]))
        uniform = [self._random[slot].getrandbits(RANDOM_BITS) / 2**RANDOM_BITS for slot in slots]
        column = torch.tensor(uniform, dtype=torch.float64, device=self._device)[:, None]
        tokens: list[int] = filters.draw(rows, column).tolist()
        return tokens

    def _slots_with(self, name: str, off: float) -> list[int]:
        """Slots whose setting is not switched off."""
        return [
            slot
            for slot, chosen in enumerate(self._settings)
            if chosen is not None and getattr(chosen, name) != off
        ]

    def _column(self, values: list[float]) -> Tensor:
        """A setting of each row, (B, 1)."""
        return torch.tensor(values, device=self._device)[:, None]
