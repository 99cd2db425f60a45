"""How fast a device multiplies matrices: measured, since tables of peaks are wrong or missing.

No table knows a CPU's, a power limit's or a neighbour's share. So the peak is `torch.mm`, in the
precision and with the threads of the training itself.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from babygpt_exp.hardware import EAGER_FLOPS, Machine, PrecisionConfig

EXPECTED_SHARE = 0.4
"""Share of the peak that training is expected to reach, where an estimate must do."""

PEAK_SIZE = 4096
"""Rows and columns of the matrices: large enough for any device to be at its fastest."""

WINDOW_SECONDS = 0.5
"""Length of a window of products; the best one counts, neighbours disturb the others."""

RUN_SECONDS = 1.0
"""How long a run measures its peak."""

WORTH_SECONDS = 60.0
"""A run that is expected to be shorter does not measure the peak, and has no MFU: it would spend
more than a sixtieth of its time on a figure about time, most of which went into starting."""

EXPECTED_FLOPS = {"cpu": EAGER_FLOPS, "gpu": 1e14}
"""Arithmetic a second of training, roughly: only to tell short runs from long ones."""


def matmul_dtype(precision: PrecisionConfig) -> torch.dtype:
    """The type of the factors of a precision's matrix products."""
    if precision.name.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.name == "16-mixed" else torch.float32


def measure_run_peak(
    machine: Machine, precision: PrecisionConfig, run_flops: float
) -> float | None:
    """FLOP/s that a run's utilization is measured against; None for a run that is too short."""
    if run_flops / EXPECTED_FLOPS[machine.accelerator] < WORTH_SECONDS:
        return None
    return measure_peak(matmul_dtype(precision), machine.device, RUN_SECONDS)


def measure_peak(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """FLOP/s of products of square matrices of PEAK_SIZE, the best of the windows in `seconds`.

    Two windows at least. torch's global random state is left as it is.
    """
    shape = (PEAK_SIZE, PEAK_SIZE)
    a, b = random_matrix(shape, dtype, device), random_matrix(shape, dtype, device)
    return 2 * PEAK_SIZE**3 / product_seconds(a, b, seconds)


def measure_roof(
    shapes: Iterable[tuple[int, int]],
    num_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    seconds: float,
) -> float:
    """FLOP/s of the products of a training step alone: what a model's shapes allow.

    `shapes` are those of its weights (out, in); each is multiplied with `num_tokens` tokens
    in the three products of forward and backward.
    """
    counts = Counter(shapes)
    flops, total_seconds = 0.0, 0.0
    for (num_out, num_in), count in counts.items():
        x = random_matrix((num_tokens, num_in), dtype, device)
        weight = random_matrix((num_out, num_in), dtype, device)
        grad = random_matrix((num_tokens, num_out), dtype, device)
        for a, b in ((x, weight.t()), (grad, weight), (grad.t(), x)):
            share = seconds / (3 * len(counts))
            total_seconds += count * product_seconds(a, b, share)
            flops += count * 2 * num_tokens * num_out * num_in
    return flops / total_seconds


def random_matrix(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as in a model, not zeros: a GPU draws more power for them, and clocks lower."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def product_seconds(a: Tensor, b: Tensor, seconds: float) -> float:
    """Least seconds of `a @ b`, over windows of products that take about `seconds` in all."""
    out = torch.mm(a, b)
    return least_seconds(lambda: torch.mm(a, b, out=out), a.device, seconds)


def least_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds that a call takes in the best of the windows within `seconds`, two at least.

    The first windows are single calls, which warm up; the next are as long as a window may be.
    """
    least, count, num_windows = math.inf, 1, 0
    window_seconds = min(WINDOW_SECONDS, seconds / 2)
    begin = time.perf_counter()
    while num_windows < 2 or time.perf_counter() - begin < seconds:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize(device)
        elapsed = time.perf_counter() - start
        least = min(least, elapsed / count)
        count = max(count, round(count * window_seconds / elapsed))
        num_windows += 1
    return least


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to have done what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
