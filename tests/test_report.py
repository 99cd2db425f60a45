"""Reports of folders in every state, and the files and lines that they become."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from experiment_harness import REPOSITORY, SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from babygpt_exp.errors import UserError
from babygpt_exp.report import write
from babygpt_exp.report.cli import main
from babygpt_exp.report.content import Report
from babygpt_exp.report.runs import KILLED, NO_SUMMARY, read_report, read_rows
from babygpt_exp.report.tables import FIGURES, Table, csv_text, escaped, markdown
from babygpt_exp.report.write import LOCK, write_report
from babygpt_exp.summary import first_summary
from babygpt_exp.tracking.history import COLUMNS, Sample, jsonl_text, read_samples
from babygpt_exp.tracking.history import csv_text as metrics_text

SCRIPT = "<script>alert(1)</script>"
ROWS = [
    {"step": step, "tokens": 1024 * step, "seconds": 0.5 * step, "train/loss": 6.0 - step}
    | ({"val/loss": 5.0 - step, "val/bpb": 4.0 - step} if step % 2 == 0 else {})
    for step in (1, 2, 3)
]
SAMPLE = Sample(2, 2048, "manual", "Steven", f" ran {SCRIPT}")


def make_run(folder: Path, *overrides: str, bits: float | None = 2.0, **changes: Any) -> Path:
    """A run's folder with all files that a report reads."""
    folder.mkdir(parents=True)
    summary: dict[str, Any] = {
        "status": "completed",
        "error": None,
        "steps": 3,
        "tokens": 3072,
        "seconds": 1.5,
        "final_train_loss": 3.0,
        "final_val_loss": 3.5,
        "final_val_bpb": bits,
        "best_val_bpb": bits,
        "tokens_per_s": 2048.5,
        "parameters": 1234,
        "overrides": ["model=nano", *overrides],
        "seed": next((int(o.split("=")[1]) for o in overrides if o.startswith("seed=")), 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    (folder / "metrics.csv").write_text(metrics_text(ROWS, header=True))
    (folder / "samples.jsonl").write_text(jsonl_text([SAMPLE]))
    return folder


def make_sweep(folder: Path) -> Path:
    """Two optimizers and two seeds, and one job that failed."""
    bits = {("adamw", 1): 2.2, ("adamw", 2): 2.31, ("muon", 1): 2.1, ("muon", 2): 2.2}
    for number, ((optimizer, seed), value) in enumerate(bits.items()):
        make_run(folder / str(number), f"optimizer={optimizer}", f"seed={seed}", bits=value)
    failed = folder / "4"
    failed.mkdir()
    summary = {
        "status": "failed",
        "error": f"ConfigError: a | b\n{SCRIPT}",
        "overrides": ["model=nano", f"optimizer={SCRIPT}|x", "seed=1"],
    }
    (failed / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "12-00-00")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What is read of such a sweep; look, do not touch."""
    return read_report(make_sweep(tmp_path_factory.mktemp("report") / "2026-11-24" / "12-00-00"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that a file is, as another process would."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


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

    def test_order_is_that_of_sweep_json(self, tmp_path: Path) -> None:
        typed = {"overrides": ["seed=1,2", "optimizer=muon,adamw", "model=nano"]}
        (tmp_path / "sweep.json").write_text(json.dumps(typed))
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1"), ("optimizer=adamw", "seed=2"))
        assert list(found) == ["seed", "optimizer"]

    def test_what_is_going_to_vary_has_a_column_from_the_first_job_on(self, tmp_path: Path) -> None:
        words = ["optimizer=muon,adamw", "seed=range(1,4)", "model=nano", "tags=[a,b]", "=,"]
        (tmp_path / "sweep.json").write_text(json.dumps({"overrides": words}))
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1", "tags=[a,b]"))
        assert found == {"optimizer": ["muon"], "seed": ["1"]}

    def test_order_is_that_of_multirun_yaml(self, tmp_path: Path) -> None:
        text = "hydra:\n  overrides:\n    task:\n    - seed=1,2\n    - optimizer=muon,adamw\n"
        (tmp_path / "multirun.yaml").write_text(f"{text}  job:\n    num: ???\n    id: ${{x:}}\n")
        found = self.keys_of(tmp_path, ("optimizer=muon", "seed=1"), ("optimizer=adamw", "seed=2"))
        assert list(found) == ["seed", "optimizer"]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"overrides": 3}', "{}"])
    def test_a_broken_sweep_json_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "sweep.json").write_text(text)
        (tmp_path / "multirun.yaml").write_text("- a: {")
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


class TestCsv:
    """summary.csv."""

    def read(self, report: Report) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(csv_text(report), newline="")))

    def test_columns(self, report: Report) -> None:
        rows = self.read(report)
        before, after = ["rank", "job", "name", "status"], ["error", "folder"]
        assert list(rows[0]) == [*before, "optimizer", "seed", *FIGURES, *after]

    def test_rows(self, report: Report) -> None:
        rows = self.read(report)
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4", ""]
        assert [row["folder"] for row in rows] == ["2", "0", "3", "1", "4"]
        assert rows[0]["final_val_bpb"] == "2.1"
        assert rows[0]["tokens"] == "3072"
        assert rows[4]["optimizer"] == f"{SCRIPT}|x"
        assert rows[4]["error"] == f"ConfigError: a | b {SCRIPT}"
        assert rows[4]["final_val_bpb"] == ""

    def test_pandas_reads_it(self, report: Report) -> None:
        frame = pd.read_csv(io.StringIO(csv_text(report)))
        assert frame["final_val_bpb"].tolist()[:4] == [2.1, 2.2, 2.2, 2.31]

    @settings(max_examples=50)
    @given(st.text(st.characters(codec="utf-8"), max_size=20))
    def test_any_text_stays_on_its_row(self, report: Report, text: str) -> None:
        run = replace(report.runs[0], name=text, varied={"optimizer": text, "seed": ""})
        rows = self.read(replace(report, runs=[run]))
        assert len(rows) == 1
        assert rows[0]["optimizer"] == " ".join(text.splitlines())


class TestMarkdown:
    """summary.md."""

    def test_sections(self, report: Report) -> None:
        lines = markdown(report).splitlines()
        assert lines[0] == "# 2026-11-24_12-00-00"
        assert lines[2] == "5 runs: 4 completed, 1 failed"
        assert [line for line in lines if line.startswith("## ")] == [
            "## Groups",
            "## Differences",
            "## What mattered",
            "## Notes",
        ]

    def test_tables(self, report: Report) -> None:
        lines = markdown(report).splitlines()
        assert lines[4].startswith("| rank | job | optimizer | seed | bits/byte | best |")
        assert lines[6].startswith("| 1 | 2 | muon | 1 | 2.1000 | 2.1000 | 3.500 | 3,072 | 1.5 |")
        assert lines[10].endswith(
            "| failed: ConfigError: a \\| b &lt;script&gt;alert(1)&lt;/script&gt; |"
        )
        assert "| muon | 2 | 2.1500 +- 0.0500 |" in lines
        assert "| adamw | 2 | 2.2550 +- 0.0550 |" in lines
        assert "| &lt;script&gt;alert(1)&lt;/script&gt;\\|x | 0 of 1 |  |" in lines

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
    def test_any_text_is_shown_as_it_is(self, text: str) -> None:
        html = MarkdownIt("commonmark").enable("table").parse(Table(["a"], [[text]]).markdown())
        cells = [token for token in html if token.type == "inline"]
        assert len(cells) == 2
        children = cells[1].children or []
        shown = "".join(child.content for child in children)
        assert {child.type for child in children} <= {"text", "text_special"}
        assert shown.split() == " ".join(text.splitlines()).split()

    def test_words_stay_readable(self) -> None:
        assert escaped("model.num_heads=2 __init__() ~x") == (
            "model.num_heads=2 \\_\\_init\\_\\_() \\~x"
        )

    def test_again_from_the_same_folder(self, report: Report, tmp_path: Path) -> None:
        copy = tmp_path / report.folder.parent.name / report.folder.name
        shutil.copytree(report.folder, copy)
        again = read_report(copy)
        assert (csv_text(again), markdown(again)) == (csv_text(report), markdown(report))


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


class TestWriting:
    """The files."""

    def test_all_are_there_and_again_the_same(self, folder: Path) -> None:
        names = ("summary.csv", "summary.md", "report.html")
        assert write_report(folder) == folder / "report.html"
        first = [(folder / name).read_bytes() for name in names]
        write_report(folder)
        assert [(folder / name).read_bytes() for name in names] == first
        assert not list(folder.glob(".*.unfinished"))

    def test_text_that_no_file_can_have(self, folder: Path) -> None:
        make_run(folder / "5", "optimizer=\ud800", "seed=1")
        write_report(folder)
        assert "optimizer=?" in (folder / "summary.csv").read_text(encoding="utf-8")

    def test_text_of_the_world(self, folder: Path) -> None:
        make_run(folder / "5", "optimizer=\u738b\u00e9", "seed=1")
        write_report(folder)
        assert "\u738b\u00e9" in (folder / "summary.md").read_text(encoding="utf-8")

    def test_who_waits_sees_what_came_meanwhile(self, folder: Path) -> None:
        with ThreadPoolExecutor() as pool:
            with locked(folder / LOCK):
                later = pool.submit(write_report, folder)
                make_run(folder / "5", "optimizer=new", "seed=1")
                assert not (folder / "summary.csv").exists()
            later.result(timeout=SECONDS)
        assert "optimizer=new" in (folder / "summary.csv").read_text()

    def test_waiting_has_an_end(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(write, "WAIT_SECONDS", 0.1)
        with locked(folder / LOCK), pytest.raises(UserError, match="another process"):
            write_report(folder)

    def test_two_at_a_time(self, folder: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            pages = [pool.submit(write_report, folder) for _ in range(2)]
        assert {page.result() for page in pages} == {folder / "report.html"}
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")

    def test_full_disk(self, small_disk: Callable[[str], Path]) -> None:
        folder = make_sweep(small_disk("256k") / "sweep")
        with pytest.raises(UserError, match=r"report\.html can not be written: No space left"):
            write_report(folder)
        assert (folder / "summary.md").exists()
        assert not list(folder.glob(".*.unfinished"))


class TestCommand:
    """`python -m babygpt_exp.report`."""

    def test_shows_what_matters(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main([str(folder)])
        output, errors = capsys.readouterr()
        lines = output.splitlines()
        assert errors == ""
        assert lines[0].endswith("12-00-00: 5 runs: 4 completed, 1 failed")
        assert lines[2].split()[:4] == ["rank", "job", "optimizer", "seed"]
        assert lines[3].split()[:5] == ["1", "2", "muon", "1", "2.1000"]
        assert "optimizer=muon beats optimizer=adamw by 0.105 +- 0.064" in output
        assert "95 % interval" in output
        assert lines[-2] == f"page    {folder / 'report.html'}"
        assert lines[-1].startswith(f"tables  {folder / 'summary.md'}")

    def test_many_runs_are_cut_short(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number in range(23):
            make_run(tmp_path / str(number), f"seed={number}", bits=2 + number)
        for number in range(23, 35):
            make_run(tmp_path / str(number), f"seed={number}", status="failed", error="bad luck")
        main([str(tmp_path)])
        output = capsys.readouterr().out
        assert [line.split()[0] for line in output.splitlines()[3:23]] == [
            str(rank) for rank in range(1, 21)
        ]
        assert output.count("failed: bad luck") == 10
        assert [line for line in output.splitlines() if " more" in line] == ["3 more", "2 more"]

    def test_one_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_run(tmp_path / "run")
        main([str(run)])
        output = capsys.readouterr().out
        assert output.splitlines()[2].split()[0] == "run"
        assert output.splitlines()[-1] == f"page    {run / 'report.html'}"

    def test_a_process_without_torch(self, folder: Path) -> None:
        script = (
            "import sys\n"
            "from babygpt_exp.report.cli import main\n"
            "assert 'pandas' not in sys.modules\n"
            "main()\n"
            "found = {'torch', 'lightning', 'wandb'} & set(sys.modules)\n"
            "assert not found, found\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("arguments", "exit_code", "words"),
        [
            (["nowhere"], 1, "error: nowhere is no folder; give that of a run or of a sweep"),
            (["."], 1, "error: . has no runs: give a run's folder"),
            ([], 2, "the following arguments are required: DIR"),
            (["a", "b"], 2, "unrecognized arguments: b"),
            (["--help"], 0, ""),
        ],
        ids=["no folder", "no runs", "no argument", "two", "help"],
    )
    def test_wrong_usage_is_one_line(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        exit_code: int,
        words: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == exit_code
        errors = capsys.readouterr().err
        assert errors.startswith(words)
        assert errors.count("\n") == (exit_code > 0)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_may_not_be_written(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / LOCK).mkdir()
        with pytest.raises(SystemExit) as end:
            main([str(folder)])
        assert end.value.code == 1
        assert capsys.readouterr().err == (
            f"error: {folder / LOCK} can not be written: Is a directory\n"
        )


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["", "\n", "{", "}", '"', "1", ",", "\0", "\xe9", "step"])))
def test_any_files_can_be_read(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    job = tmp_path_factory.mktemp("sweep") / "0"
    job.mkdir()
    for name in ("summary.json", "metrics.csv", "samples.jsonl", "config.yaml"):
        (job / name).write_text("".join(parts) + "\n", encoding="utf-8")
    report = read_report(job.parent)
    assert len(report.runs) == 1
    assert markdown(report)
