"""`pruner=median`: which runs of a sweep are stopped, and by what."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from experiment_harness import QUIET, Outcome, read_summary

from babygpt_exp.callbacks.prune import Prune, complete_curves
from babygpt_exp.parallel.ranks import Ranks
from babygpt_exp.pruner import (
    MedianConfig,
    PrunedValue,
    RunPruned,
    is_pruned,
    median_at,
    value_at,
)
from babygpt_exp.tracking.history import csv_text

pytestmark = pytest.mark.slow

CURVE = ((100, 4.0), (200, 3.0), (400, 2.0))


def write_run(
    folder: Path, status: str, values: dict[int, float], error: str | None = None
) -> None:
    """What a run leaves that was validated at some tokens."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for tokens, value in values.items():
        at = {"step": tokens // 100, "tokens": tokens, "seconds": 1.5}
        rows += [at | {"train/loss": 3.5}, at | {"val/loss": 2.5, "val/bpb": value}]
    (folder / "metrics.csv").write_text(csv_text(rows, header=True))
    (folder / "summary.json").write_text(json.dumps({"status": status, "error": error}))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep's folder with three complete runs, one pruned, one that failed, one that runs."""
    for number, value in enumerate((2.0, 3.0, 4.0)):
        write_run(tmp_path / str(number), "completed", {200: value + 1, 400: value})
    write_run(tmp_path / "3", "interrupted", {200: 9.0}, "pruned at 200 tokens: ...")
    write_run(tmp_path / "4", "failed", {200: 9.0, 400: 9.0}, "OSError: ...")
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "summary.json").write_text("")
    (tmp_path / "report.html").write_text("")
    return tmp_path


def validate(
    sweep: Path,
    tokens: int,
    *values: float,
    num_startup_runs: int = 3,
    warmup_tokens: int | None = 0,
) -> None:
    """Go through a validation of job 5, after which these are its values; its budget is 500."""
    metrics: Any = SimpleNamespace(
        folder=SimpleNamespace(path=sweep / "5"),
        best_bits_per_byte=min(values),
        last={"val/bpb": values[-1]},
    )
    config: Any = SimpleNamespace(run=SimpleNamespace(max_tokens=500, num_steps=5))
    prune = Prune(config, MedianConfig("median", num_startup_runs, warmup_tokens), metrics)
    trainer: Any = SimpleNamespace(global_step=tokens // 100)
    module: Any = SimpleNamespace(tokens=tokens, ranks=Ranks())
    prune.on_fit_start(trainer, module)
    prune.on_validation_end(trainer, module)


class TestRule:
    """The median, and where runs have been validated elsewhere."""

    @pytest.mark.parametrize(
        ("tokens", "value"),
        [(50, None), (100, 4.0), (150, 3.5), (200, 3.0), (250, 2.75), (400, 2.0), (401, None)],
    )
    def test_value_at(self, tokens: int, value: float | None) -> None:
        assert value_at(CURVE, tokens) == value
        assert value_at((), tokens) is None

    def test_median_is_of_the_runs_that_have_been_there(self) -> None:
        curves = (CURVE, ((100, 2.0), (200, 1.0)), ((300, 9.0),))
        assert median_at(curves, 150) == (2.5, 2)
        assert median_at(curves, 500) is None

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [((0, None), "pruner.num_startup_runs=0"), ((1, -1), "pruner.warmup_tokens=-1")],
    )
    def test_settings_are_checked(self, settings: tuple[int, int | None], problem: str) -> None:
        with pytest.raises(ValueError, match=f"{problem} must be at least"):
            MedianConfig("median", *settings)


class TestCallback:
    """Stopping or not, after a validation."""

    def test_only_complete_runs_count(self, sweep: Path) -> None:
        assert complete_curves(sweep) == [[(200, v + 1), (400, v)] for v in (2.0, 3.0, 4.0)]

    def test_stops_what_is_above_the_median(self, sweep: Path) -> None:
        with pytest.raises(RunPruned) as raised:
            validate(sweep, 200, 5.0, 4.5)
        words = "pruned at 200 tokens: val/bpb 4.5000, median of 3 runs 4.0000"
        assert str(raised.value) == words
        assert raised.value.bits_per_byte == 4.5
        assert is_pruned({"status": "interrupted", "error": words})

    def test_lets_go_on_what_is_at_the_median(self, sweep: Path) -> None:
        validate(sweep, 200, 4.0)

    def test_the_best_so_far_counts(self, sweep: Path) -> None:
        validate(sweep, 200, 3.9, 8.0)

    def test_a_run_at_its_end_is_complete(self, sweep: Path) -> None:
        validate(sweep, 500, 9.0)

    def test_few_runs_tell_nothing(self, sweep: Path) -> None:
        validate(sweep, 200, 9.0, num_startup_runs=4)

    def test_warmup(self, sweep: Path) -> None:
        validate(sweep, 200, 9.0, warmup_tokens=200)
        with pytest.raises(RunPruned):
            validate(sweep, 300, 9.0, warmup_tokens=200)

    def test_warmup_is_a_quarter_of_the_run(self, sweep: Path) -> None:
        write_run(sweep / "6", "completed", {100: 2.0})
        validate(sweep, 100, 9.0, warmup_tokens=None)
        with pytest.raises(RunPruned):
            validate(sweep, 100, 9.0, warmup_tokens=0)


def test_in_a_sweep(babygpt: Callable[..., Outcome], tmp_path: Path) -> None:
    """One of two is stopped: no failure, told as pruned, and not begun again."""
    command = (
        *("-m", *QUIET, "hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path / 'sweep'}"),
        *("optimizer=adamw", "optimizer.lr=0.02,0.0000001", "run.eval_every_tokens=4096"),
        *("pruner=median", "pruner.num_startup_runs=1", "pruner.warmup_tokens=0"),
        "hydra.sweeper.n_trials=2",
    )
    outcome = babygpt(*command)
    assert outcome.exit_code == 0, outcome.errors
    assert "1 complete, 1 pruned" in outcome.output
    summary = read_summary(tmp_path / "sweep" / "1")
    assert summary["status"] == "interrupted"
    assert summary["tokens"] == 4096
    assert (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").exists()
    again = babygpt(*command)
    assert again.exit_code == 0, again.errors
    assert "1 complete, 1 pruned" in again.output
    assert read_summary(tmp_path / "sweep" / "1") == summary


def test_a_pruned_value_is_a_number_that_goes_between_processes() -> None:
    value = pickle.loads(pickle.dumps(PrunedValue(4.5)))
    assert value == 4.5
    assert isinstance(value, PrunedValue)


@pytest.mark.parametrize("error", [None, "stopped by SIGINT", "OSError: pruned at once"])
def test_other_runs_are_not_pruned(error: str | None) -> None:
    assert not is_pruned({"error": error})
    assert not is_pruned({})
