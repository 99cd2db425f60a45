"""Samples of a round: what they start from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from babygpt_exp.callbacks.samples import validation_prompts
from babygpt_exp.data.batches import MicroBatch, split
from babygpt_exp.sampling import SamplingConfig
from streamer.client import Batch
from streamer.sources.template import Template

END = 7
SAMPLING = SamplingConfig(
    num_auto=2,
    prompt_tokens=3,
    max_new_tokens=4,
    temperature=0.8,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
)


def filled_up(*blocks: list[int], prompt_end: int | None = None) -> list[MicroBatch]:
    """Blocks of up to nine tokens as micro-batches of four, whose last rows hold no text."""
    tokens = np.array([block + [END] * (9 - len(block)) for block in blocks], np.uint16)
    lengths = np.array([len(block) for block in blocks])
    values: dict[str, Any] = {"tokens": tokens, "lengths": lengths}
    rest = {field.name: None for field in dataclasses.fields(Batch) if field.name not in values}
    return list(split(Batch(**values, **rest), 4, prompt_end))


@pytest.mark.parametrize(
    ("blocks", "prompts"),
    [
        ([[END, 1, 2, 3, 4, 5, 6, 1, 2]], [[END, 1, 2]]),
        ([[END, 1, END]], [[END, 1]]),
        ([[END, *[n] * 8] for n in range(1, 6)], [[END, 1, 1], [END, 2, 2]]),
    ],
    ids=["one", "short", "many"],
)
def test_of_text(blocks: list[list[int]], prompts: list[list[int]]) -> None:
    assert validation_prompts(filled_up(*blocks), SAMPLING, None, END) == prompts


def test_of_instructions() -> None:
    batches = filled_up([END, 1, 2, END, 3, END], prompt_end=END)
    assert validation_prompts(batches, SAMPLING, Template(["{a}"]), END) == [[END, 1, 2, END]]
