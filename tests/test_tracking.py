"""The loggers by themselves: rows and samples as files, and an offline run of W&B."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import (
    SECONDS,
    of_type,
    read_rows,
    read_samples,
    read_summary,
    read_wandb,
)
from wandb_harness import assert_same, assert_sweep_same, linked_logs, read_sweep

from babygpt_exp.folder import RunFolder
from babygpt_exp.job import Job
from babygpt_exp.tracking.account import quiet
from babygpt_exp.tracking.config import WandbConfig
from babygpt_exp.tracking.files import FileLogger
from babygpt_exp.tracking.history import COLUMNS, Sample, read_history
from babygpt_exp.tracking.names import new_run_id
from babygpt_exp.tracking.wandb import FOLDERS, open_run, wandb_folders

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


class TestConfig:
    """What W&B would refuse, before anything is started."""

    def test_tags_and_project(self) -> None:
        with pytest.raises(ValueError, match=r"logger\.tags has '': .*; logger\.project=a/b must"):
            WandbConfig("wandb", "offline", "a/b", None, None, ["", "fine"])
        with pytest.raises(ValueError, match="a tag has 1 to 64 characters"):
            WandbConfig("wandb", "offline", "babygpt", None, None, ["x" * 65])


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


CONFIG = WandbConfig("wandb", "offline", "babygpt", None, None, ["a tag"])


def new_job(sweep: Path, number: int) -> Job:
    """A job of a sweep, and its folder."""
    folder = sweep / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    distinct = [f"seed={number}"]
    run_id = new_run_id(distinct, number)
    return Job(folder, ["model=nano", *distinct], distinct, run_id, sweep="a sweep")


def run_offline(job: Job, exit_code: int, status: str, rows: int) -> None:
    """A run of W&B without a model: what is logged goes to the files of the folder too."""
    folder = RunFolder(job.folder)
    folder.remove_unfinished()
    said: list[str] = []
    with wandb_folders(job.folder / "wandb"):
        run = open_run(CONFIG, job, {"seed": 3, "model": {"width": 64}}, said.append)
        loggers = [FileLogger(folder), run]
        if folder.metrics.exists():
            for logger in loggers:
                logger.go_on(read_history(folder, last_step=rows))
        for step in range(rows, rows + 3):
            row = ROW | {"step": step + 1, "tokens": 64 * (step + 1)}
            for logger in loggers:
                logger.log_metrics({**row, "train/loss": 6.25 / (step + 1)})
        summary = {
            "status": status,
            "error": None,
            "steps": rows + 3,
            "seconds": 0.75,
            "final_val_loss": None,
            "final_val_bpb": 2.5,
            "best_val_bpb": 0.1 + 0.2,
            "overrides": job.overrides,
            "versions": {"python": "3"},
            **job.names,
        }
        for logger in loggers:
            logger.log_samples([SAMPLE, replace(SAMPLE, step=rows + 3, text="\u00e9\n<b>")])
            logger.finish(exit_code, summary)
        folder.end_summary(summary)
    assert said == []


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two jobs; the second was stopped."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    run_offline(new_job(folder, 0), exit_code=0, status="completed", rows=0)
    run_offline(new_job(folder, 1), exit_code=143, status="interrupted", rows=0)
    return folder


@pytest.fixture(scope="module")
def records(sweep: Path, environment: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Its W&B records, by the number of the job."""
    return read_sweep(sweep, environment)


class TestOfflineRun:
    """What W&B has of a sweep, and of a job that goes on."""

    def test_all_of_the_sweep_is_in_one_folder(self, sweep: Path) -> None:
        assert {number: log.parents[1] for number, log in linked_logs(sweep).items()} == {
            "0": sweep / "wandb",
            "1": sweep / "wandb",
        }

    def test_has_what_the_folders_have(
        self, sweep: Path, records: dict[str, list[dict[str, Any]]]
    ) -> None:
        assert_sweep_same(sweep, records)

    def test_exit_codes(self, records: dict[str, list[dict[str, Any]]]) -> None:
        codes = {n: of_type(found, "exit")[0].get("exit_code", 0) for n, found in records.items()}
        assert codes == {"0": 0, "1": 143}

    def test_comparison_sees_a_difference(
        self, sweep: Path, records: dict[str, list[dict[str, Any]]]
    ) -> None:
        with pytest.raises(AssertionError):
            assert_same(sweep / "0", records["1"])

    def test_tags_config_and_axis(self, records: dict[str, list[dict[str, Any]]]) -> None:
        (run,) = of_type(records["0"], "run")
        assert run["tags"] == ["a tag"]
        assert run["config"]["update"]["model"] == {"width": 64}
        axes = {m.get("name"): m.get("step_metric") for m in of_type(records["0"], "metric")}
        assert {axes[column] for column in COLUMNS if column != "tokens"} == {"tokens"}

    def test_sync_finds_each_run_once(self, sweep: Path, environment: dict[str, str]) -> None:
        sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(sweep / "wandb")]
        done = subprocess.run(
            sync,
            cwd=sweep,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        assert "Would sync 2 run(s)" in done.stderr
        for log in linked_logs(sweep).values():
            assert done.stderr.count(log.name) == 1

    def test_run_that_goes_on_is_linked_in_place_of_what_it_repeats(
        self, sweep: Path, environment: dict[str, str]
    ) -> None:
        before = linked_logs(sweep)
        summary = read_summary(sweep / "1")
        job = replace(new_job(sweep, 1), run_id=summary["run_id"])
        run_offline(job, 1, "failed", rows=3)
        after = linked_logs(sweep)
        assert after["0"] == before["0"]
        assert after["1"] != before["1"]
        assert after["1"].name == before["1"].name
        assert before["1"].parent.name in {p.name for p in (sweep / "1" / "wandb").iterdir()}
        assert len(read_rows(sweep / "1")) == 6
        assert_same(sweep / "1", read_wandb(after["1"], environment))

    def test_goes_on_where_no_link_can_be_made(self, tmp_path: Path) -> None:
        said: list[str] = []
        job = new_job(tmp_path, 0)
        (tmp_path / "wandb").write_text("in the way")
        with wandb_folders(job.folder / "wandb"):
            run = open_run(CONFIG, job, {}, said.append)
            run.log_samples([])
            run.finish(0, {})
        (note,) = said
        assert note.startswith("note: no link to this W&B run in the sweep's folder: ")
