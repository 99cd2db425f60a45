"""What goes wrong ends in one line, the right exit status and a folder that tells the truth."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from experiment_harness import (
    ENDLESS,
    QUIET,
    REPOSITORY,
    TINY,
    Outcome,
    Running,
    command,
    read_rows,
    read_summary,
    streamers_of,
    wait_until,
)

from babygpt_exp.tracking.history import COLUMNS

pytestmark = pytest.mark.slow

LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as handle:  # SIOCSIFFLAGS: lo is up and running
    fcntl.ioctl(handle, 0x8914, struct.pack("16sh", b"lo", 0x41))
os.execv(sys.executable, sys.argv[1:])
"""


def assert_rows_are_whole(folder: Path) -> None:
    text = (folder / "metrics.csv").read_text()
    assert text.endswith("\n")
    assert {line.count(",") for line in text.splitlines()} == {len(COLUMNS) - 1}
    steps = [int(row["step"]) for row in read_rows(folder) if row["train/loss"]]
    assert steps == list(range(1, len(steps) + 1))


def fill(disk: Path) -> None:
    """Write until there is no room."""
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


class TestConfig:
    """A config that can not run: exit status 2, and nothing is left behind.

    The many ways to get one wrong are in test_config.py, by the same main without a process.
    """

    @pytest.mark.parametrize(
        ("arguments", "words", "fresh"),
        [
            (["model=bbaby"], ["model=bbaby", "did you mean 'baby'?"], True),
            (["model=nano", "model.num_heads=3"], ["model.num_heads=3", "model.width=128"], False),
        ],
        ids=["option", "sizes"],
    )
    def test_one_line_and_no_folder(
        self,
        babygpt: Callable[..., Outcome],
        arguments: list[str],
        words: list[str],
        fresh: bool,
    ) -> None:
        outcome = babygpt(*arguments, fresh=fresh)
        line = outcome.one_error_line()
        assert outcome.exit_code == 2
        assert outcome.output == ""
        assert all(word in line for word in words), line
        assert list(outcome.cwd.iterdir()) == []

    def test_online_without_a_key(
        self, babygpt: Callable[..., Outcome], environment: dict[str, str]
    ) -> None:
        outcome = babygpt(*TINY, env=environment | {"WANDB_MODE": "online"})
        assert "WANDB_API_KEY" in outcome.one_error_line()
        assert outcome.exit_code == 2
        assert list(outcome.cwd.iterdir()) == []

    def test_needs_no_gpu_to_refuse_one(
        self, babygpt: Callable[..., Outcome], environment: dict[str, str]
    ) -> None:
        outcome = babygpt(*QUIET, "hardware=gpu", env=environment | {"CUDA_VISIBLE_DEVICES": ""})
        assert "hardware=gpu" in outcome.one_error_line()
        assert outcome.exit_code == 2
        assert list(outcome.cwd.iterdir()) == []


class TestCorpus:
    """A corpus that does not read: exit status 1, the run failed, the file is named."""

    @pytest.fixture(params=["missing", "empty", "parquet", "jsonl"])
    def broken(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[str]]:
        folder = tmp_path / "corpus"
        folder.mkdir()
        if request.param == "missing":
            return folder / "nowhere.txt", ["nowhere.txt"]
        if request.param == "empty":
            return folder, [str(folder)]
        if request.param == "parquet":
            path = folder / "broken.parquet"
            pq.write_table(pa.table({"text": ["words"] * 1000}), path)
            path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)
            return path, [str(path)]
        path = folder / "broken.jsonl"
        lines = [json.dumps({"text": f"{i} words of a document " * 20}) for i in range(50)]
        lines[2] = '{"text": "no end'
        path.write_text("\n".join(lines) + "\n")
        return path, [str(path), "line 3"]

    def test_one_line_that_names_it(
        self, babygpt: Callable[..., Outcome], broken: tuple[Path, list[str]], tmp_path: Path
    ) -> None:
        source, words = broken
        cwd = tmp_path / "cwd"
        cwd.mkdir()
        outcome = babygpt(*QUIET, "data=local", f"data.source={source}", cwd=cwd)
        line = outcome.one_error_line()
        assert outcome.exit_code == 1
        assert all(word in line for word in words), line
        assert outcome.summary["status"] == "failed"
        assert all(word in outcome.summary["error"] for word in words)


def test_tokenizer_that_is_none(babygpt: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"these": "are notes"}')
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    sizes = [word for word in QUIET if not word.startswith("tokenizer.")]
    outcome = babygpt(*sizes, "tokenizer=file", f"tokenizer.path={path}", cwd=cwd)
    assert str(path) in outcome.one_error_line()
    assert outcome.exit_code in (1, 2)


def test_loss_that_is_not_finite(babygpt: Callable[..., Outcome]) -> None:
    outcome = babygpt(*QUIET, "optimizer=adamw", "optimizer.lr=1e30")
    line = outcome.one_error_line()
    assert outcome.exit_code == 1
    assert outcome.summary["status"] == "failed"
    step = re.search(r"not finite at step (\d+)", line)
    assert step is not None, line
    assert outcome.summary["steps"] == int(step[1])
    assert line in outcome.summary["error"]
    assert_rows_are_whole(outcome.folder)
    if "no checkpoint yet" not in line:
        assert str(outcome.folder / "checkpoints" / "last.ckpt") in line


class TestStop:
    """A run that is asked to stop, or is not even asked."""

    @pytest.fixture
    def own(self, environment: dict[str, str], cache: Path, tmp_path: Path) -> dict[str, str]:
        """An environment by which this test's streamer can be told from others."""
        shutil.copytree(cache, tmp_path / "cache")
        return environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    @pytest.mark.parametrize(
        ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_signal_ends_it_after_the_step(
        self,
        start_babygpt: Callable[..., Running],
        own: dict[str, str],
        number: signal.Signals,
        exit_code: int,
    ) -> None:
        running = start_babygpt(*ENDLESS, env=own)
        folder = running.wait_for_rows(2)
        outcome = running.stop(number)
        assert outcome.exit_code == exit_code
        assert "Traceback" not in outcome.errors
        last_line = outcome.errors.splitlines()[-1]
        assert last_line.startswith("error: ")
        assert number.name in last_line
        summary = read_summary(folder)
        assert summary["status"] == "interrupted"
        assert summary["steps"] >= 2
        assert_rows_are_whole(folder)
        assert (folder / "checkpoints" / "last.ckpt").stat().st_size > 0
        assert streamers_of(Path(own["XDG_CACHE_HOME"])) == []

    @pytest.mark.parametrize(
        ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_signal_before_training_ends_it_at_once(
        self,
        start_babygpt: Callable[..., Running],
        own: dict[str, str],
        number: signal.Signals,
        exit_code: int,
    ) -> None:
        long = "run.max_tokens=100_000_000"  # the machine is measured first
        running = start_babygpt(*ENDLESS, long, env=own, fresh=True)
        # It listens once it has written its first summary, and then starts the streamer.
        wait_until(lambda: any(running.cwd.glob("outputs/*/*/streamer.log")), "streamer.log")
        outcome = running.stop(number)
        assert number.name in outcome.errors.splitlines()[-1]
        assert "Traceback" not in outcome.errors
        assert outcome.exit_code == exit_code
        assert outcome.summary["status"] == "interrupted"
        # One that was about to be started ends by itself.
        cache = Path(own["XDG_CACHE_HOME"])
        wait_until(lambda: streamers_of(cache) == [], "the end of the streamer")

    def test_kill_leaves_no_streamer_and_a_true_summary(
        self, start_babygpt: Callable[..., Running], own: dict[str, str]
    ) -> None:
        running = start_babygpt(*ENDLESS, env=own)
        folder = running.wait_for_rows(2)
        cache = Path(own["XDG_CACHE_HOME"])
        assert len(streamers_of(cache)) == 1
        assert running.stop(signal.SIGKILL).exit_code == -signal.SIGKILL
        wait_until(lambda: streamers_of(cache) == [], "the end of the streamer")
        assert read_summary(folder)["status"] == "interrupted"
        assert_rows_are_whole(folder)


class TestFullDisk:
    """A disk that fills up under the run."""

    def assert_failed(self, outcome: Outcome) -> None:
        assert outcome.exit_code == 1
        assert "No space left" in outcome.one_error_line()
        assert outcome.summary["status"] == "failed"
        assert "No space left" in outcome.summary["error"]
        assert_rows_are_whole(outcome.folder)

    def test_no_room_for_a_checkpoint(
        self, babygpt: Callable[..., Outcome], small_disk: Callable[[str], Path]
    ) -> None:
        outcome = babygpt(*QUIET, "run.checkpoint_every_tokens=2048", cwd=small_disk("600k"))
        self.assert_failed(outcome)
        assert outcome.summary["steps"] == 2
        assert list(outcome.folder.glob("checkpoints/*")) == []

    def test_no_room_for_a_row(
        self,
        start_babygpt: Callable[..., Running],
        small_disk: Callable[[str], Path],
    ) -> None:
        disk = small_disk("2m")
        never = "run.checkpoint_every_tokens=100_000_000"
        running = start_babygpt(*ENDLESS, never, cwd=disk)
        running.wait_for_rows(2)
        with pytest.raises(OSError, match="No space left"):
            fill(disk)
        output, errors = running.process.communicate(timeout=240)
        self.assert_failed(Outcome(running.process.returncode, output, errors, disk))


def test_without_home_and_network(cache: Path, tmp_path: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(cache),  # the tests leave nothing in anybody's home
    }
    alone = ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        alone = []  # no namespaces here: at least without HOME
    else:
        alone += [sys.executable, "-c", LOOPBACK_UP]
    done = subprocess.run(
        [*alone, *command(*TINY)],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    assert read_summary(folder)["status"] == "completed"
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
