"""What an engine is asked for: settings and requests that make no sense are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from babygpt_exp.generation.request import Request
from babygpt_exp.sampling import Settings

GREEDY = Settings(temperature=0.0)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_refuse(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Settings(**change)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt": ()}, "prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"num_top_logprobs": -1}, "num_top_logprobs"),
    ],
)
def test_requests_refuse(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(Request((1,), 1, GREEDY), **change)
