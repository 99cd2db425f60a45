"""The measured peak: what it is, what it leaves alone, and what a run makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from experiment_harness import TINY, TinyRun, read_rows, read_summary, run

from babygpt_exp import peak
from babygpt_exp.hardware import Machine, PrecisionConfig
from babygpt_exp.peak import least_seconds, matmul_dtype, measure_peak, measure_roof

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SMALL_PEAK = (
    "import babygpt_exp.peak as peak; peak.PEAK_SIZE, peak.WORTH_SECONDS = 512, 0.0\n"
    "from babygpt_exp.cli import main; main()"
)
"""Trains like `python -m babygpt_exp`, with a peak that is soon measured, also of a short run."""
MEASURED = ("seconds", "perf/tokens_per_s", "perf/data_wait_frac", "perf/mfu", "perf/memory_mb")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take no time."""
    monkeypatch.setattr(peak, "PEAK_SIZE", 256)


@pytest.mark.usefixtures("small")
class TestMeasuring:
    """Real products, small ones."""

    def test_peak_is_no_faster_than_any_machine(self) -> None:
        assert 0 < measure_peak(torch.float32, CPU, 0.02) < 1e14

    def test_so_is_the_roof(self) -> None:
        shapes = [(64, 128), (64, 128), (32, 64)]
        assert 0 < measure_roof(shapes, 96, torch.float32, CPU, 0.02) < 1e14

    def test_random_state_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        measure_peak(torch.float32, CPU, 0.01)
        measure_roof([(8, 16)], 4, torch.float32, CPU, 0.01)
        assert torch.equal(before, torch.get_rng_state())

    def test_windows_are_two_at_least(self) -> None:
        calls: list[None] = []
        assert least_seconds(lambda: calls.append(None), CPU, 0.0) > 0
        assert len(calls) == 2


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("32-true", torch.float32),
    ],
)
def test_peak_is_that_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    assert matmul_dtype(PrecisionConfig(precision)) == dtype  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("seconds", "measured"), [(59, False), (61, True)])
def test_short_runs_do_not_measure(seconds: float, measured: bool) -> None:
    flops = seconds * peak.EXPECTED_FLOPS["cpu"]
    found = peak.measure_run_peak(Machine("cpu", "", []), PrecisionConfig("32-true"), flops)
    assert (found is not None) == measured


def without_measures(folder: Path) -> list[dict[str, str]]:
    return [
        {name: text for name, text in row.items() if name not in MEASURED}
        for row in read_rows(folder)
    ]


class TestRuns:
    """metrics.csv and summary.json."""

    def test_short_run_has_no_utilization(self, tiny_run: TinyRun) -> None:
        summary = read_summary(tiny_run.folder)
        assert not any(row["perf/mfu"] for row in read_rows(tiny_run.folder))
        assert summary["mfu"] is None
        # One layer of width 64, a head of 512 tokens, context 64.
        assert summary["flops_per_token"] == 6 * (12 * 64**2 + 512 * 64) + 12 * 64 * 64
        assert summary["tokens_per_parameter"] == summary["tokens"] / summary["parameters"]

    def test_long_run_has_it_and_learns_the_same(
        self, tiny_run: TinyRun, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        arguments = [*TINY, "logger=none"]
        start = [sys.executable, "-c", SMALL_PEAK, *arguments]
        env = environment | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the command line sets it
        outcome = run(cwd=tmp_path, env=env, start=start)
        assert outcome.exit_code == 0, outcome.errors
        rows = [row for row in read_rows(outcome.folder) if row["train/loss"]]
        shares = [float(row["perf/mfu"]) for row in rows]
        assert all(0 < share <= 1 for share in shares)
        assert min(shares) <= outcome.summary["mfu"] <= max(shares)
        speeds = [float(row["perf/tokens_per_s"]) for row in rows]
        peaks = [speed / share for speed, share in zip(speeds, shares, strict=True)]
        assert max(peaks) == pytest.approx(min(peaks))
        assert without_measures(outcome.folder) == without_measures(tiny_run.folder)
