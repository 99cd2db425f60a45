"""Reports of folders in every state: what is read, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import ROWS, SAMPLE, SCRIPT, locked, make_run, make_sweep

from babygpt_exp.report.content import Report
from babygpt_exp.report.runs import KILLED, NO_SUMMARY, read_report, read_rows
from babygpt_exp.report.tables import csv_text, markdown
from babygpt_exp.report.write import LOCK, write_report
from babygpt_exp.summary import first_summary
from babygpt_exp.tracking.history import COLUMNS, jsonl_text, read_samples
from babygpt_exp.tracking.history import csv_text as metrics_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "12-00-00")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What is read of such a sweep; look, do not touch."""
    return read_report(make_sweep(tmp_path_factory.mktemp("report") / "2026-11-24" / "12-00-00"))


class TestSweep:
    """Runs, keys, groups."""

    def test_title_and_keys(self, report: Report) -> None:
        assert report.title == "2026-11-24_12-00-00"
        assert report.keys == ["optimizer", "seed"]

    def test_runs_are_best_first_and_failed_last(self, report: Report) -> None:
        assert [(run.number, run.name, run.status) for run in report.runs] == [
            (2, "optimizer=muon,seed=1", "completed"),
            (0, "optimizer=adamw,seed=1", "completed"),
            (3, "optimizer=muon,seed=2", "completed"),
            (1, "optimizer=adamw,seed=2", "completed"),
            (4, f"optimizer={SCRIPT}|x,seed=1", "failed"),
        ]
        assert [run.score for run in report.runs] == [2.1, 2.2, 2.2, 2.31, None]

    def test_a_run_has_its_rows_and_samples(self, report: Report) -> None:
        rows = report.runs[0].rows
        assert list(rows.columns) == list(COLUMNS)
        assert rows["train/loss"].tolist() == [5.0, 4.0, 3.0]
        assert rows["val/bpb"].dropna().tolist() == [2.0]
        assert set(rows.dtypes.astype(str)) == {"float64"}
        assert report.runs[0].samples[0]["text"] == SAMPLE.text

    def test_a_refused_job(self, report: Report) -> None:
        run = report.runs[-1]
        assert run.error == f"ConfigError: a | b {SCRIPT}"
        assert run.seed == 1
        assert run.rows.empty
        assert list(run.rows.columns) == list(COLUMNS)
        assert run.samples == []

    def test_groups_and_differences(self, report: Report) -> None:
        assert [group.name for group in report.groups] == [
            "optimizer=muon",
            "optimizer=adamw",
            f"optimizer={SCRIPT}|x",
        ]
        assert [difference.sentence for difference in report.differences] == [
            "optimizer=muon beats optimizer=adamw by 0.105 +- 0.064 bits/byte over 2 seeds"
        ]
        assert report.importances[0].key == "optimizer"

    def test_nothing_is_made_or_taken_away_by_reading(self, folder: Path) -> None:
        before = sorted(folder.rglob("*"))
        read_report(folder)
        assert sorted(folder.rglob("*")) == before


class TestKeys:
    """Which overrides vary, in which order, with which values."""

    def keys_of(self, folder: Path, *jobs: tuple[str, ...]) -> dict[str, list[str]]:
        for number, overrides in enumerate(jobs):
            if not (folder / str(number)).exists():
                make_run(folder / str(number), *overrides)
        report = read_report(folder)
        runs = sorted(report.runs, key=lambda run: run.number or 0)
        return {key: [run.varied[key] for run in runs] for key in report.keys}

    def test_what_is_going_to_vary_has_a_column_from_the_first_job_on(self, tmp_path: Path) -> None:
        words = ["optimizer=muon,adamw", "seed=range(1,4)", "model=nano", "tags=[a,b]", "=,"]
        typed = json.dumps({"hydra": {"overrides": {"task": words}}})
        (tmp_path / "multirun.yaml").write_text(typed)
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1", "tags=[a,b]"))
        assert found == {"optimizer": ["muon"], "seed": ["1"]}

    def test_order_is_that_of_multirun_yaml(self, tmp_path: Path) -> None:
        text = "hydra:\n  overrides:\n    task:\n    - seed=1,2\n    - optimizer=muon,adamw\n"
        (tmp_path / "multirun.yaml").write_text(f"{text}  job:\n    num: ???\n    id: ${{x:}}\n")
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1"), ("optimizer=adamw", "seed=2"))
        assert list(found) == ["seed", "optimizer"]

    @pytest.mark.parametrize("text", ["", "- a: {", "{}", "hydra: {overrides: {task: null}}"])
    def test_a_broken_multirun_yaml_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "multirun.yaml").write_text(text)
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1"), ("optimizer=adamw", "seed=2"))
        assert list(found) == ["optimizer", "seed"]

    def test_an_override_that_is_missing_is_in_the_config(self, tmp_path: Path) -> None:
        make_run(tmp_path / "0", "optimizer=adamw", "+run.seconds=2", "hardware.compile=True")
        make_run(tmp_path / "1")
        config = "optimizer:\n  name: muon\nhardware:\n  compile: false\nrun:\n  seconds: null\n"
        (tmp_path / "1" / "config.yaml").write_text(config)
        assert self.keys_of(tmp_path) == {
            "optimizer": ["adamw", "muon"],
            "run.seconds": ["2", "null"],
            "hardware.compile": ["true", "false"],
        }

    def test_what_nobody_says_is_empty(self, tmp_path: Path) -> None:
        found = self.keys_of(tmp_path, ("ablation=base",), ())
        assert found == {"ablation": ["base", ""]}

    def test_runs_of_one_name_are_told_apart_by_their_folders(self, tmp_path: Path) -> None:
        self.keys_of(tmp_path, ("seed=1",), ("seed=1",), ("seed=2",))
        names = sorted(run.name for run in read_report(tmp_path).runs)
        assert names == ["seed=1 (0)", "seed=1 (1)", "seed=2"]


class TestUnfinished:
    """Folders of jobs that run, were killed, or have not begun."""

    def begin(self, folder: Path) -> Path:
        """A run that has logged and not ended."""
        summary = first_summary(1, ["model=nano", "optimizer=muon", "seed=1"])
        return make_run(folder, **summary)

    def test_running(self, folder: Path) -> None:
        job = self.begin(folder / "5")
        with locked(job / ".lock"):
            run = read_report(folder).runs[4]
            assert (run.number, run.status, run.error, run.score) == (5, "running", None, None)
        assert run.summary["tokens"] == 3072
        assert run.summary["seconds"] == 1.5
        assert run.summary["best_val_bpb"] == 2.0
        assert run.summary["final_val_bpb"] is None

    def test_running_before_it_has_written_anything(self, folder: Path) -> None:
        (folder / "5").mkdir()
        with locked(folder / "5" / ".lock"):
            run = read_report(folder).runs[4]
        assert (run.number, run.name, run.status, run.error) == (5, "5", "running", None)

    def test_going_on_after_an_interruption(self, folder: Path) -> None:
        job = make_run(folder / "5", "seed=3", status="interrupted", error="stopped by Ctrl-C")
        with locked(job / ".lock"):
            assert read_report(folder).runs[4].status == "running"
        run = read_report(folder).runs[4]
        assert (run.status, run.error) == ("interrupted", "stopped by Ctrl-C")

    @pytest.mark.parametrize("has_lock_file", [True, False])
    def test_killed(self, folder: Path, has_lock_file: bool) -> None:
        job = self.begin(folder / "5")
        if has_lock_file:
            (job / ".lock").touch()
        run = read_report(folder).runs[4]
        assert (run.number, run.status, run.error) == (5, "interrupted", KILLED)
        assert (job / ".lock").exists() == has_lock_file

    def test_an_empty_folder(self, folder: Path) -> None:
        (folder / "5").mkdir()
        run = read_report(folder).runs[4]
        assert (run.name, run.status, run.error) == ("5", "interrupted", NO_SUMMARY)
        assert run.varied == {"optimizer": "", "seed": ""}

    def test_completed_although_somebody_has_it_open(self, folder: Path) -> None:
        with locked(folder / "0" / ".lock"):
            assert read_report(folder).runs[1].status == "completed"

    @pytest.mark.parametrize("text", ["", "{", "null", "[1]", '{"status": "comp'])
    def test_a_summary_that_is_not_whole(self, folder: Path, text: str) -> None:
        (folder / "0" / "summary.json").write_text(text)
        run = next(run for run in read_report(folder).runs if run.number == 0)
        assert (run.status, run.error) == ("interrupted", NO_SUMMARY)
        assert len(run.rows) == 3

    def test_numbers_that_are_none(self, folder: Path) -> None:
        make_run(folder / "5", "optimizer=sgd", "seed=1", bits=float("nan"))
        report = read_report(folder)
        assert (report.runs[4].number, report.runs[4].score) == (5, None)
        assert "nan" not in f"{csv_text(report)}{markdown(report)}".lower()


class TestTorn:
    """Files whose last line was being written."""

    def test_any_beginning_of_the_rows_can_be_read(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "metrics.csv", metrics_text(ROWS, header=True)
        for length in range(0, len(whole), 3):
            path.write_text(whole[:length])
            num_lines = whole[:length].count("\n")
            assert len(read_rows(path)) == max(0, num_lines - 1)

    def test_any_beginning_of_the_samples_can_be_read(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "samples.jsonl", jsonl_text([SAMPLE, SAMPLE])
        for length in range(0, len(whole), 3):
            path.write_text(whole[:length])
            assert len(read_samples(path)) == whole[:length].count("\n")

    @pytest.mark.parametrize(
        ("tail", "num_rows"),
        [
            (b"4,4096,2.0,1", 3),
            (b"4,4096\n", 3),
            (b"4,4096,2.0,nan,,,,,,,,,\n", 4),
            (b"4,4096,2.0,1,,,,,,,,,,,,,,\n", 3),
            (b"\0\0\0\0\n", 3),
            (b'"\n', 3),
            (b"\xff\xfe\n", 3),
        ],
        ids=["torn", "short", "nan", "long", "zeros", "quote", "no text"],
    )
    def test_a_row_that_is_not_whole(self, folder: Path, tail: bytes, num_rows: int) -> None:
        with (folder / "0" / "metrics.csv").open("ab") as file:
            file.write(tail)
        run = next(run for run in read_report(folder).runs if run.number == 0)
        assert len(run.rows) == num_rows
        assert run.rows["train/loss"].tolist()[:3] == [5.0, 4.0, 3.0]

    def test_columns_that_are_missing_or_new(self, folder: Path) -> None:
        (folder / "0" / "metrics.csv").write_text("tokens,step,seconds,new\n1024,1,0.5,7\n")
        (folder / "1" / "metrics.csv").write_text("something else\n1\n")
        runs = {run.number: run for run in read_report(folder).runs}
        assert runs[0].rows["tokens"].tolist() == [1024.0]
        assert runs[0].rows["train/loss"].isna().all()
        assert runs[1].rows.empty


class TestOneRun:
    """The folder of a run by itself."""

    def test_is_a_report_of_one(self, tmp_path: Path) -> None:
        report = read_report(make_run(tmp_path / "2026-11-24" / "12-00-00", "seed=3"))
        (run,) = report.runs
        assert (report.title, report.keys) == ("2026-11-24_12-00-00", [])
        assert (run.number, run.name, run.seed, run.score) == (None, "12-00-00", 3, 2.0)
        assert (report.differences, report.importances) == ([], [])
        assert [group.name for group in report.groups] == ["all runs"]

    def test_a_job_of_a_sweep_by_itself(self, folder: Path) -> None:
        report = read_report(folder / "2")
        assert report.title.endswith("_12-00-00_2")
        assert [run.number for run in report.runs] == [None]

    def test_only_the_page_is_written(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        before = {path.name for path in run.iterdir()}
        assert write_report(run) == run / "report.html"
        assert {path.name for path in run.iterdir()} - before == {"report.html", LOCK}

    def test_a_day_of_runs_is_compared_too(self, tmp_path: Path) -> None:
        make_run(tmp_path / "12-00-00", "optimizer=muon", bits=2.0)
        make_run(tmp_path / "13-00-00", "optimizer=adamw", bits=1.9)
        report = read_report(tmp_path)
        assert [(run.name, run.number) for run in report.runs] == [
            ("optimizer=adamw", None),
            ("optimizer=muon", None),
        ]
