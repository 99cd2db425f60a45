"""Drawing text: the filters by table, and the loop on a small model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from experiment_harness import architecture
from torch import Tensor

from babygpt_exp.model import Decoder, ModelConfig, build_model
from babygpt_exp.sampling import SamplingConfig, draw, generate, keep_top_k

VOCABULARY, CONTEXT = 40, 16
NONE = -torch.inf
NEVER = VOCABULARY + 1
"""A token that no model draws."""
SAMPLING = SamplingConfig(num_auto=1, prompt_tokens=4, max_new_tokens=12, temperature=1.0, top_k=0)
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module", params=["modern", "llama", "gpt2", "eir"])
def model(request: pytest.FixtureRequest) -> Decoder:
    """A model whose logits differ from token to token."""
    torch.manual_seed(1)
    size = ModelConfig(2, 32, 4, CONTEXT, 64, 640)
    made = build_model(size, architecture(request.param), VOCABULARY)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn_like(p)
    return made


def last_logits(model: Decoder, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(torch.tensor([tokens]))[:, -1])[0]


@pytest.mark.parametrize(
    ("logits", "top_k", "kept"),
    [
        ([1.0, 3.0, 2.0], 0, [1.0, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 1, [NONE, 3.0, NONE]),
        ([1.0, 3.0, 2.0], 2, [NONE, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 3, [1.0, 3.0, 2.0]),
        ([1.0, 3.0, 2.0], 50, [1.0, 3.0, 2.0]),
        ([2.0, 2.0, 1.0], 1, [2.0, 2.0, NONE]),
        ([-5.0, -4.0, NONE], 2, [-5.0, -4.0, NONE]),
    ],
)
def test_keep_top_k(logits: list[float], top_k: int, kept: list[float]) -> None:
    assert keep_top_k(torch.tensor(logits), top_k).tolist() == kept


def test_keep_top_k_of_each_row() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert keep_top_k(logits, 1).tolist() == [[NONE, NONE, 3.0], [3.0, NONE, NONE]]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    greedy = replace(SAMPLING, temperature=0.0)
    drawn = draw(logits, greedy, torch.Generator().manual_seed(2))
    assert torch.equal(drawn, logits.argmax(-1))


def test_draws_follow_the_chances() -> None:
    chances = torch.tensor([0.6, 0.3, 0.1])
    generator = torch.Generator().manual_seed(3)
    drawn = draw(chances.log().expand(20_000, 3), SAMPLING, generator)
    shares = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(shares, chances, rtol=0, atol=0.02)


def test_temperature_sharpens() -> None:
    chances = torch.tensor([0.6, 0.3, 0.1])
    cold = replace(SAMPLING, temperature=0.5)
    drawn = draw(chances.log().expand(20_000, 3), cold, torch.Generator().manual_seed(3))
    shares = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(shares, chances**2 / (chances**2).sum(), rtol=0, atol=0.02)


def test_only_the_top_k_are_drawn() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0]).expand(2000, 4)
    drawn = draw(logits, replace(SAMPLING, top_k=2), torch.Generator().manual_seed(4))
    assert set(drawn.tolist()) == {1, 2}


def test_greedy_text_is_that_of_the_plain_loop(model: Decoder) -> None:
    greedy = replace(SAMPLING, temperature=0.0, max_new_tokens=CONTEXT - len(PROMPT))
    text = list(PROMPT)
    for _ in range(greedy.max_new_tokens):
        text.append(int(last_logits(model, text).argmax()))
    assert generate(model, PROMPT, NEVER, greedy, seed=1) == text[len(PROMPT) :]


def test_seed_decides_the_text(model: Decoder) -> None:
    one, two, other = (generate(model, PROMPT, NEVER, SAMPLING, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one != other
    assert len(one) == 12


def test_global_random_state_has_no_part(model: Decoder) -> None:
    torch.manual_seed(1)
    one = generate(model, PROMPT, NEVER, SAMPLING, seed=1)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert generate(model, PROMPT, NEVER, SAMPLING, seed=1) == one
    assert torch.equal(torch.get_rng_state(), before)


def test_stops_at_the_end_of_text_and_leaves_it_out(model: Decoder) -> None:
    text = generate(model, PROMPT, NEVER, SAMPLING, seed=1)
    stop = text[5]
    assert generate(model, PROMPT, stop, SAMPLING, seed=1) == text[: text.index(stop)]


def test_goes_on_beyond_the_context(model: Decoder) -> None:
    greedy = replace(SAMPLING, temperature=0.0, max_new_tokens=3 * CONTEXT)
    added = generate(model, PROMPT, NEVER, greedy, seed=1)
    assert len(added) == 3 * CONTEXT
    # The first token that has no place comes from the last half of the context.
    text = PROMPT + added
    first = CONTEXT + 1
    half = text[first - CONTEXT // 2 : first]
    assert text[first] == int(last_logits(model, half).argmax())


def test_prompt_that_is_longer_than_the_context(model: Decoder) -> None:
    greedy = replace(SAMPLING, temperature=0.0, max_new_tokens=1)
    prompt = [i % VOCABULARY for i in range(2 * CONTEXT)]
    expected = int(last_logits(model, prompt[-CONTEXT:]).argmax())
    assert generate(model, prompt, NEVER, greedy, seed=1) == [expected]


def test_prompt_is_not_changed(model: Decoder) -> None:
    prompt = list(PROMPT)
    assert generate(model, prompt, NEVER, SAMPLING, seed=1)
    assert prompt == PROMPT


def test_leaves_no_gradients(model: Decoder) -> None:
    assert generate(model, PROMPT, NEVER, SAMPLING, seed=1)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"top_k": -1}, {"prompt_tokens": 0}, {"max_new_tokens": 0}]
)
def test_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SAMPLING, **change)
