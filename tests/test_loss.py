"""The loss in chunks is the plain loss, in value and in gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from babygpt_exp.model.loss import CHUNK_POSITIONS, IGNORE, Loss, chunked_nats, plain_nats

CHANNELS, VOCABULARY = 8, 50


def nats_and_gradients(
    loss: Loss, num_positions: int, *, softcap: float, has_bias: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Nats, and their gradients by hidden, weight and, where there is one, bias."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(num_positions, CHANNELS, generator=generator, dtype=dtype)
    weight = 3 * torch.randn(VOCABULARY, CHANNELS, generator=generator, dtype=dtype)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=dtype) if has_bias else None
    targets = torch.randint(VOCABULARY, (num_positions,), generator=generator)
    targets[::7] = IGNORE
    leaves = [p.requires_grad_() for p in (hidden, weight, bias) if p is not None]
    nats = loss(hidden, weight, bias, targets, softcap)
    return [nats.detach(), *torch.autograd.grad(nats / 10, leaves)]


@pytest.mark.parametrize("num_positions", [5, CHUNK_POSITIONS, 2 * CHUNK_POSITIONS + 3])
@pytest.mark.parametrize("softcap", [0.0, 4.0])
@pytest.mark.parametrize("has_bias", [False, True])
def test_chunks_change_nothing(num_positions: int, softcap: float, has_bias: bool) -> None:
    plain, chunked = (
        nats_and_gradients(
            loss, num_positions, softcap=softcap, has_bias=has_bias, dtype=torch.float32
        )
        for loss in (plain_nats, chunked_nats)
    )
    assert len(plain) == 3 + has_bias
    for expected, got in zip(plain, chunked, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_types() -> None:
    found = nats_and_gradients(chunked_nats, 100, softcap=15.0, has_bias=True, dtype=torch.bfloat16)
    assert [tensor.dtype for tensor in found] == [torch.float32] + 3 * [torch.bfloat16]
    exact = nats_and_gradients(plain_nats, 100, softcap=15.0, has_bias=True, dtype=torch.float32)
    assert float(found[0]) == pytest.approx(float(exact[0]), rel=0.2)


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight = torch.randn(3000, CHANNELS), torch.randn(VOCABULARY, CHANNELS)
    targets = torch.randint(VOCABULARY, (3000,))
    with torch.no_grad():
        got = chunked_nats(hidden, weight, None, targets, 15.0)
        expected = plain_nats(hidden, weight, None, targets, 15.0)
    torch.testing.assert_close(got, expected)


def test_targets_that_are_all_ignored() -> None:
    hidden = torch.randn(4, CHANNELS, requires_grad=True)
    nats = chunked_nats(hidden, torch.randn(9, CHANNELS), None, torch.full((4,), IGNORE), 15.0)
    nats.backward()  # type: ignore[no-untyped-call]
    assert float(nats.detach()) == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()
