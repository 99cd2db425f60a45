"""Files of a run's folder: whole, or as they were."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from babygpt_exp.errors import UserError
from babygpt_exp.folder import (
    SUMMARY_ROOM_BYTES,
    RunFolder,
    append_whole,
    copy_whole,
    locked,
    write_whole,
)
from babygpt_exp.summary import first_summary, git_commit, versions

PAGE = 4096


def fill(disk: Path) -> None:
    """Leave no free page."""
    with pytest.raises(OSError, match="No space left"):
        write_until_full(disk / "filler")


def write_until_full(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * PAGE)


class TestWriteWhole:
    """By rename."""

    @pytest.mark.parametrize("text", ["", "a\nb\n", "a\r\nb", "caf\u00e9 \u6c34", "\0"], ids=ascii)
    def test_writes_the_very_bytes(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "deep" / "er" / "file.txt"
        write_whole(path, text)
        assert path.read_bytes() == text.encode()
        assert [p.name for p in path.parent.iterdir()] == ["file.txt"]

    def test_takes_the_place_of_the_old(self, tmp_path: Path) -> None:
        path = tmp_path / "file.txt"
        write_whole(path, "a long old text")
        write_whole(path, "new")
        assert path.read_text() == "new"

    def test_a_reader_never_sees_a_part(self, tmp_path: Path) -> None:
        path = tmp_path / "file.txt"
        texts = ["a" * 100_000, "b" * 50_000]
        write_whole(path, texts[0])

        def write() -> None:
            for number in range(40):
                write_whole(path, texts[number % 2])

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while writer.is_alive():
            seen.add(path.read_text())
        writer.join()
        assert seen <= set(texts)

    def test_on_a_full_disk_the_old_text_stays(self, small_disk: Callable[[str], Path]) -> None:
        disk = small_disk("256k")
        path = disk / "file.txt"
        write_whole(path, "old")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "n" * 10 * PAGE)
        assert path.read_text() == "old"
        assert {p.name for p in disk.iterdir()} == {"file.txt", "filler"}


class TestAppendWhole:
    """In one piece."""

    def test_makes_the_file_and_adds(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        append_whole(path, "a\n")
        append_whole(path, "caf\u00e9\n")
        assert path.read_bytes() == "a\ncaf\u00e9\n".encode()

    def test_on_a_full_disk_the_file_stays_as_it_was(
        self, small_disk: Callable[[str], Path]
    ) -> None:
        disk = small_disk("256k")
        path = disk / "rows.csv"
        append_whole(path, "a,b\n")
        fill(disk)
        append_whole(path, "c,d\n")  # the page that it has is not full
        with pytest.raises(OSError, match="No space left"):
            append_whole(path, "e" * 2 * PAGE + "\n")
        assert path.read_text() == "a,b\nc,d\n"

    def test_goes_on_once_there_is_room(self, small_disk: Callable[[str], Path]) -> None:
        disk = small_disk("256k")
        path = disk / "rows.csv"
        append_whole(path, "a\n")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            append_whole(path, "b" * 2 * PAGE + "\n")
        (disk / "filler").unlink()
        append_whole(path, "c\n")
        assert path.read_text() == "a\nc\n"


class TestCopyWhole:
    """A second name for a file."""

    def test_takes_the_place_of_the_old(self, tmp_path: Path) -> None:
        old, new, other = (tmp_path / name for name in ("old", "new", ".old.unfinished"))
        for path in (old, new, other):  # what a killed process left is in nobody's way
            path.write_text(path.name)
        for _ in range(2):
            copy_whole(new, old)
        assert old.read_text() == "new"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]

    def test_stays_as_it_is_when_the_first_is_replaced(self, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        write_whole(first, "one")
        copy_whole(first, second)
        write_whole(first, "two")
        assert second.read_text() == "one"


class TestLock:
    """One process a folder."""

    def test_second_is_refused_and_nothing_stays(self, tmp_path: Path) -> None:
        with locked(tmp_path, print):
            with pytest.raises(UserError, match="is in use"), locked(tmp_path, print):
                pass
            assert (tmp_path / ".lock").exists()
        assert list(tmp_path.iterdir()) == []
        with locked(tmp_path, print):
            pass

    def test_a_killed_process_has_no_lock(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from babygpt_exp.folder import locked\n"
            "with locked(Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
        assert done.returncode == -9
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path, print):
            pass

    def test_file_system_without_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_lock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", no_lock)
        said: list[str] = []
        with locked(tmp_path, said.append):
            assert len(said) == 1


class TestSummary:
    """summary.json has room for its end."""

    def test_first_is_true_of_a_run_that_is_killed(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.start_summary(first_summary(3, ["seed=3"]))
        text = folder.summary.read_text()
        summary = json.loads(text)
        assert len(text) == SUMMARY_ROOM_BYTES
        assert summary["status"] == "interrupted"
        assert (summary["seed"], summary["overrides"]) == (3, ["seed=3"])

    def test_last_takes_its_place(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.start_summary({"status": "interrupted"})
        folder.end_summary({"status": "completed", "steps": 5})
        assert folder.summary.read_text() == '{\n  "status": "completed",\n  "steps": 5\n}\n'

    @pytest.mark.parametrize("error", ["short", "l" * 8000, "\u6c34" * 2000], ids=len)
    def test_last_is_written_on_a_full_disk(
        self, small_disk: Callable[[str], Path], error: str
    ) -> None:
        disk = small_disk("256k")
        folder = RunFolder(disk)
        folder.start_summary({"status": "interrupted", "filling": "x" * 5000})
        fill(disk)
        folder.end_summary({"status": "failed", "error": error})
        summary = json.loads(folder.summary.read_text())
        assert summary == {"status": "failed", "error": error}
        assert {p.name for p in disk.iterdir()} == {"summary.json", "filler"}

    def test_names_the_code(self) -> None:
        assert set(versions()) >= {"python", "torch", "lightning"}
        commit = git_commit()
        assert commit is None or len(commit.removesuffix("+")) == 40


def test_paths_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in vars(folder).values()}
    assert names == {
        ".",
        "config.yaml",
        "metrics.csv",
        "samples.jsonl",
        "tokenizer.json",
        "training_curve.svg",
        "summary.json",
        "streamer.log",
        "checkpoints",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/best.ckpt",
    }
