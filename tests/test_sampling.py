"""Group `sampling`: its rules, and what of it reaches a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from babygpt_exp.sampling import SamplingConfig, Settings

SAMPLING = SamplingConfig(
    num_auto=1,
    prompt_tokens=4,
    max_new_tokens=12,
    temperature=0.7,
    top_k=9,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
)


def test_settings_of_a_request() -> None:
    assert SAMPLING.settings(seed=3) == Settings(temperature=0.7, top_k=9, seed=3)


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"top_k": -1}, {"prompt_tokens": 0}, {"max_new_tokens": 0}]
)
def test_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SAMPLING, **change)
