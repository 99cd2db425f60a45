"""What a report is written as: summary.csv, summary.md and all of it, whenever it is asked for."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from experiment_harness import REPOSITORY, SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_runs import SCRIPT, locked, make_run, make_sweep

from babygpt_exp.errors import UserError
from babygpt_exp.report import write
from babygpt_exp.report.cli import main
from babygpt_exp.report.content import Report
from babygpt_exp.report.runs import read_report
from babygpt_exp.report.tables import FIGURES, Table, csv_text, escaped, markdown
from babygpt_exp.report.write import LOCK, write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "12-00-00")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What is read of such a sweep; look, do not touch."""
    return read_report(make_sweep(tmp_path_factory.mktemp("report") / "2026-11-24" / "12-00-00"))


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
