"""The loggers by themselves: rows and samples as files, and an offline run of W&B."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import of_type, read_samples, read_wandb

from babygpt_exp.folder import RunFolder
from babygpt_exp.record import Job
from babygpt_exp.tracking.config import WandbConfig
from babygpt_exp.tracking.files import COLUMNS, FileLogger, Sample
from babygpt_exp.tracking.wandb import FOLDERS, open_run, quiet, slug, wandb_folders

ROW = {"step": 1, "tokens": 64, "seconds": 0.5, "train/loss": 6.25}
SAMPLE = Sample(step=1, tokens=64, kind="manual", prompt="Steven", text=" ran")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


class TestFiles:
    """metrics.csv and samples.jsonl."""

    def test_header_comes_once(self, folder: RunFolder) -> None:
        for _ in range(2):  # the second logger goes on where the first one ended
            FileLogger(folder).log_metrics(ROW)
        lines = folder.metrics.read_text().splitlines()
        assert lines[0] == ",".join(COLUMNS)
        assert lines[1:] == ["1,64,0.5,6.25" + "," * (len(COLUMNS) - 4)] * 2

    def test_what_was_not_measured_is_empty(self, folder: RunFolder) -> None:
        FileLogger(folder).log_metrics({"tokens": 64, "val/bpb": 2.5})
        with folder.metrics.open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert {name: text for name, text in row.items() if text} == {
            "tokens": "64",
            "val/bpb": "2.5",
        }

    def test_numbers_come_back_as_they_were(self, folder: RunFolder) -> None:
        value = 0.1 + 0.2
        FileLogger(folder).log_metrics({"train/loss": value})
        with folder.metrics.open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert float(row["train/loss"]) == value

    @pytest.mark.parametrize(
        "text",
        ["a\nb", "a\r\nb", "\u2028\u2029\x85", '"', "\\", "\0", "\U0001f600", "\ud7ff"],
        ids=ascii,
    )
    def test_any_text_is_one_line(self, folder: RunFolder, text: str) -> None:
        sample = Sample(step=1, tokens=2, kind="auto", prompt=text, text=text * 2)
        FileLogger(folder).log_samples([sample, SAMPLE])
        assert [Sample(**values) for values in read_samples(folder.path)] == [sample, SAMPLE]

    def test_rounds_are_appended(self, folder: RunFolder) -> None:
        for _ in range(3):
            FileLogger(folder).log_samples([SAMPLE])
        assert len(read_samples(folder.path)) == 3

    def test_no_samples(self, folder: RunFolder) -> None:
        FileLogger(folder).log_samples([])
        assert not folder.samples.exists() or folder.samples.read_text() == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model=baby,seed=1", "model=baby-seed=1"),
        ("2026-11-24_06-33-46-636148", "2026-11-24_06-33-46-636148"),
        ("a/b\\c#?%:", "a-b-c"),
        ("caf\u00e9", "caf"),
        ("", ""),
    ],
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


def test_slug_is_never_longer_than_wandb_allows() -> None:
    assert len(slug("x" * 500)) <= 128


@pytest.mark.parametrize("before", [None, "false"])
def test_quiet_puts_the_environment_back(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    if before is not None:
        monkeypatch.setenv("WANDB_SILENT", before)
    with quiet():
        assert os.environ["WANDB_SILENT"] == "true"
    assert os.environ.get("WANDB_SILENT") == before


def test_folders_of_wandb_are_below_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", "/my/own")
    with wandb_folders(tmp_path):
        assert os.environ["WANDB_CACHE_DIR"] == "/my/own"
        assert Path(os.environ["WANDB_DATA_DIR"]).parent == tmp_path
    assert {name: os.environ.get(name) for name in FOLDERS} == {
        name: "/my/own" if name == "WANDB_CACHE_DIR" else None for name in FOLDERS
    }


class TestOfflineRun:
    """A run of W&B without a model."""

    @pytest.fixture
    def started(self, tmp_path: Path) -> Iterator[Any]:
        config = WandbConfig("wandb", "offline", "babygpt", None, "a group", ["a tag"])
        job = Job(
            tmp_path, overrides=["seed=3"], distinct=["seed=3"], run_id="day_time", sweep=None
        )
        with wandb_folders(tmp_path / "wandb"):
            yield open_run(config, job, {"seed": 3})

    def test_no_samples(self, started: Any) -> None:
        started.log_samples([])
        started.finish(0, {})
        assert started.experiment is not None

    def test_failed_run_says_so(
        self, started: Any, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        started.log_metrics(ROW)
        started.log_samples([SAMPLE])
        started.finish(1, {"status": "failed", "steps": 1})
        (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
        records = read_wandb(log, environment)
        (end,) = of_type(records, "exit")
        assert end["exit_code"] == 1
        run = of_type(records, "run")[0]
        assert run["run_group"] == "a group"
        assert run["tags"] == ["a tag"]
        assert run["display_name"] == "seed=3"
        assert run["run_id"] == "day_time"
        text = json.dumps(of_type(records, "history"))
        assert "train/loss" in text
