"""One seed gives one curve, bit for bit; another seed gives another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiment_harness import TINY, TinyRun, read_rows, run

pytestmark = pytest.mark.slow

MEASURED = ("seconds", "perf/tokens_per_s", "perf/data_wait_frac", "perf/mfu", "perf/memory_mb")
"""Columns that depend on the machine; all others depend on the seed alone."""


@pytest.fixture(scope="module")
def again(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run once more; W&B has no part in it."""
    outcome = run(*TINY, "logger=none", cwd=tmp_path_factory.mktemp("again"), env=environment)
    assert outcome.exit_code == 0, outcome.errors
    return outcome.folder


@pytest.fixture(scope="module")
def other(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run from another seed."""
    cwd = tmp_path_factory.mktemp("other")
    outcome = run(*TINY, "logger=none", "seed=2", cwd=cwd, env=environment)
    assert outcome.exit_code == 0, outcome.errors
    return outcome.folder


@pytest.fixture(scope="module")
def from_file(
    tiny_run: TinyRun, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run again, from the config.yaml that it left."""
    where = ("--config-path", str(tiny_run.folder), "--config-name", "config")
    outcome = run(*where, cwd=tmp_path_factory.mktemp("from-file"), env=environment)
    assert outcome.exit_code == 0, outcome.errors
    return outcome.folder


def learned(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what was measured."""
    return [
        {name: text for name, text in row.items() if name not in MEASURED}
        for row in read_rows(folder)
    ]


def test_same_seed_same_curve(tiny_run: TinyRun, again: Path) -> None:
    assert learned(tiny_run.folder) == learned(again)


def test_config_file_reproduces_the_run(tiny_run: TinyRun, from_file: Path) -> None:
    assert learned(tiny_run.folder) == learned(from_file)
    assert (tiny_run.folder / "config.yaml").read_text() == (from_file / "config.yaml").read_text()


def test_same_seed_same_samples_and_tokenizer(tiny_run: TinyRun, again: Path) -> None:
    for name in ("samples.jsonl", "tokenizer.json"):
        assert (tiny_run.folder / name).read_bytes() == (again / name).read_bytes()


def test_same_seed_same_weights_and_cursor(tiny_run: TinyRun, again: Path) -> None:
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (tiny_run.folder, again)
    )
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, two["state_dict"][name]), name
    assert one["StreamDataModule"] == two["StreamDataModule"]
    assert torch.equal(one["babygpt"]["rng"]["cpu"], two["babygpt"]["rng"]["cpu"])


def test_other_seed_other_curve(tiny_run: TinyRun, other: Path) -> None:
    one = [row["train/loss"] for row in read_rows(tiny_run.folder) if row["train/loss"]]
    two = [row["train/loss"] for row in read_rows(other) if row["train/loss"]]
    assert len(one) == len(two)
    assert not set(one) & set(two)


def test_other_seed_same_tokenizer_and_same_validation_text(tiny_run: TinyRun, other: Path) -> None:
    assert (tiny_run.folder / "tokenizer.json").read_bytes() == (
        other / "tokenizer.json"
    ).read_bytes()
    one, two = (
        [
            float(row["val/bpb"]) / float(row["val/loss"])
            for row in read_rows(folder)
            if row["val/loss"]
        ]
        for folder in (tiny_run.folder, other)
    )
    assert one == pytest.approx(two, rel=1e-9)
