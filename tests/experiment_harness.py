"""What the tests of the experiment share: a tiny run, and ways to start and to read one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_processes import Death, Forked, ForkServer
from omegaconf import OmegaConf

from babygpt_exp.model import ARCHITECTURES, ArchConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 240
"""How long to wait for what must happen, also on a busy machine."""

TINY_MODEL = (
    "model=nano",
    "model.num_layers=1",
    "model.width=64",
    "model.num_heads=2",
    "model.context=64",
)
TINY = (
    *TINY_MODEL,
    "tokenizer.vocab_size=512",
    "tokenizer.setup_samples=40",
    "precision=32-true",
    "hardware.compile=false",
    "run.max_tokens=16384",
    "run.batch_tokens=1024",
    "run.eval_tokens=2048",
    "run.eval_every_tokens=4096",
    "sampling.max_new_tokens=16",
)
"""Sixteen steps of a very small model: less than a second, apart from starting."""

QUIET = (*TINY, "logger=none", "run.sample_every_tokens=16384", "run.eval_every_tokens=16384")
"""The same with as little as possible beside the training."""

ENDLESS = (*QUIET, "run.max_tokens=20_000_000", "run.log_every_tokens=1024")
"""A run that still trains whenever a test looks, and is too short to measure the machine first."""


EXPERIMENTS = ForkServer(
    *("babygpt_exp.train", "babygpt_exp.explain", "babygpt_exp.bench.cli"),
    "s3fs",  # imported by Lightning as it saves a checkpoint
)
"""What runs are forked from; not W&B, which makes a folder when imported that is taken away at the
end of a process."""


def architecture(option: str, **changes: Any) -> ArchConfig:
    """`arch=option` with some of its values changed."""
    values = OmegaConf.load(REPOSITORY / "conf" / "arch" / f"{option}.yaml")
    return ARCHITECTURES[option](**{**values, **changes})


def command(*arguments: str) -> list[str]:
    """`python -m babygpt_exp` with arguments."""
    return [sys.executable, "-m", "babygpt_exp", *arguments]


class Outcome:
    """How a finished process ended."""

    def __init__(self, exit_code: int, output: str, errors: str, cwd: Path) -> None:
        self.exit_code, self.output, self.errors, self.cwd = exit_code, output, errors, cwd

    @property
    def folder(self) -> Path:
        """The only run's folder below `outputs`."""
        (folder,) = self.cwd.glob("outputs/*/*")
        return folder

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary.json."""
        return read_summary(self.folder)

    def one_error_line(self) -> str:
        """The error without its prefix; asserts that it is one line and all there is."""
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert lines[0].startswith("error: "), self.errors
        return lines[0].removeprefix("error: ")


@dataclass(frozen=True)
class TinyRun:
    """A run that went well, and how it was started."""

    outcome: Outcome
    folder: Path
    overrides: list[str]


def run(
    *arguments: str,
    cwd: Path,
    env: dict[str, str],
    start: list[str] | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run `python -m babygpt_exp` to its end, in a session of its own; see Running."""
    if start is None:
        return Running(*arguments, cwd=cwd, env=env, fresh=fresh).end()
    done = subprocess.run(
        start,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, cwd)


def run_all(
    jobs: list[tuple[list[str], Death | None]],
    *,
    cwd: Path,
    env: dict[str, str],
    seconds: float = SECONDS,
) -> list[Outcome]:
    """Run lists of arguments one after the other; some die on the way."""
    deadline = time.monotonic() + seconds
    outcomes = []
    for arguments, death in jobs:
        process = EXPERIMENTS.start(
            "babygpt_exp", *arguments, cwd=cwd, env=env, text=True, death=death
        )
        output, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        outcomes.append(Outcome(process.wait(0), output, errors, cwd))
    return outcomes


class Running:
    """A run that is going on.

    A fork, which is there at once; with `fresh`, or where an import would see that the environment
    is another, an interpreter that begins with nothing, as a user's does. `start` is what starts it
    instead of `python -m babygpt_exp`.
    """

    process: subprocess.Popen[str] | Forked

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str],
        fresh: bool = False,
        start: list[str] | None = None,
    ) -> None:
        self.cwd = cwd
        if not fresh and start is None and EXPERIMENTS.can_start(env):
            self.process = EXPERIMENTS.start("babygpt_exp", *arguments, cwd=cwd, env=env, text=True)
        else:
            self.process = subprocess.Popen(
                command(*arguments) if start is None else [*start, *arguments],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def wait_for_rows(self, count: int) -> Path:
        """The run's folder, once its metrics.csv has `count` rows."""

        def has_rows() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return any(
                path.read_text().count("\n") > count
                for path in self.cwd.glob("outputs/*/*/metrics.csv")
            )

        wait_until(has_rows, f"{count} rows of metrics.csv")
        (folder,) = self.cwd.glob("outputs/*/*")
        return folder

    def stop(self, number: signal.Signals) -> Outcome:
        """Send a signal to the run alone and wait for its end."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> Outcome:
        """Wait for its end; kill it if that does not come."""
        try:
            output, errors = self.process.communicate(timeout=SECONDS)
        except BaseException:
            self.kill()
            raise
        assert self.process.returncode is not None
        return Outcome(self.process.returncode, output, errors, self.cwd)

    def kill(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=SECONDS)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds; fail if it never does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def streamers_of(cache: Path) -> list[int]:
    """Process ids of the streamers that were started with this cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"streamer" in words and f"XDG_CACHE_HOME={cache}".encode() in environment:
            found.append(int(entry.name))
    return found


def read_rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv as text, column by column."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """samples.jsonl."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def read_wandb(log: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a .wandb file, by W&B's own reader."""
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(
        inspect,
        env=env | {"WANDB_MODE": "offline"},
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The content of the W&B records of one type."""
    return [record[kind] for record in records if record["type"] == kind]


def make_environment(home: Path, cache: Path) -> dict[str, str]:
    """The environment of a user without a W&B account, whose HOME is empty."""
    dropped = (
        "WANDB",
        "HYDRA",
        "SLURM",
        "XDG",
        "BABYGPT",
        "COLUMNS",
        "FORCE_COLOR",
        "NO_COLOR",
        "OMP",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",  # for tensors as small as those of the tests
    }
