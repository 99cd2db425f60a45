"""Muon's arithmetic: orthogonal updates, momentum, the size of a step."""

from __future__ import annotations

import pytest
import torch

from babygpt_exp.optimizer import (
    Muon,
    muon_update,
    orthogonalize,
)


@pytest.mark.parametrize(
    "shape", [(64, 64), (128, 32), (32, 128), (3, 48, 48), (2, 96, 24), (2, 24, 96)], ids=str
)
def test_orthogonalize(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrices = matrices if matrices.ndim == 3 else matrices[None]
    result = orthogonalize(matrices, 5)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result.float())
    assert values.max() < 1.3
    # A square matrix may have a value so close to zero that five iterations do not lift it.
    assert values.quantile(0.1) > 0.6
    if shape[-1] != shape[-2]:
        assert values.min() > 0.6


def test_orthogonalize_keeps_the_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(2)
    left = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(64, 32, generator=generator)).Q
    matrix = left @ torch.diag(torch.linspace(0.5, 2, 32)) @ right.T
    result = orthogonalize(matrix[None], 5)[0].float()
    inner = left.T @ result @ right
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 0.1
    assert inner.diagonal().min() > 0.6


def test_orthogonalize_does_not_care_for_scale() -> None:
    matrix = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(3))
    one, two = orthogonalize(matrix, 5), orthogonalize(matrix * 1024, 5)
    torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)


def test_orthogonalize_of_nothing_is_nothing() -> None:
    assert not orthogonalize(torch.zeros(2, 8, 16), 5).any()


def test_stacked_matrices_are_stepped_as_if_alone() -> None:
    grads = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(4))
    together = muon_update(grads, torch.zeros_like(grads), 0.95, 5)
    alone = [muon_update(g[None], torch.zeros_like(g[None]), 0.95, 5) for g in grads]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("rows", "columns", "scale"), [(64, 16, 2.0), (16, 64, 1.0)])
def test_size_of_a_muon_step(rows: int, columns: int, scale: float) -> None:
    grads = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(5))
    update = muon_update(grads, torch.zeros_like(grads), 0.95, 5).float()
    values = torch.linalg.svdvals(update)
    assert values.max() < 1.3 * scale
    assert values.min() > 0.6 * scale


def test_momentum_of_muon() -> None:
    generator = torch.Generator().manual_seed(6)
    buffer = torch.zeros(1, 8, 8)
    expected = torch.zeros(1, 8, 8)
    for _ in range(3):
        grads = torch.randn(1, 8, 8, generator=generator)
        muon_update(grads, buffer, 0.9, 5)
        expected = 0.9 * expected + 0.1 * grads
    torch.testing.assert_close(buffer, expected)


def test_one_step_of_muon_by_hand() -> None:
    generator = torch.Generator().manual_seed(7)
    weight = torch.nn.Parameter(torch.randn(8, 16, generator=generator))
    before, grad = weight.detach().clone(), torch.randn(8, 16, generator=generator)
    group = {
        "params": [weight],
        "kind": "muon",
        "lr": 0.1,
        "weight_decay": 0.5,
        "momentum": 0.9,
        "num_iterations": 5,
    }
    weight.grad = grad.clone()
    Muon([group]).step()
    nesterov = 0.1 * grad + 0.9 * (0.1 * grad)  # (1 - 0.9) * grad, looked ahead
    step = orthogonalize(nesterov.sign()[None] * nesterov.abs()[None], 5)[0].float()
    # Only the direction of the momentum counts, so any multiple of the gradient gives the step.
    torch.testing.assert_close(
        weight.detach(), before * (1 - 0.1 * 0.5) - 0.1 * step, rtol=0.02, atol=0.01
    )
