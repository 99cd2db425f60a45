"""A sweep under way, for tests that disturb it, and what a finished one left."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from experiment_harness import SECONDS, Outcome, Running, read_rows, wait_until

MEASURED = {"seconds", "perf/tokens_per_s", "perf/data_wait_frac", "perf/mfu", "perf/memory_mb"}
"""Columns of metrics.csv that no two runs have in common."""


def learned(job: Path) -> list[dict[str, str]]:
    """metrics.csv without what was measured with a clock."""
    return [
        {name: value for name, value in row.items() if name not in MEASURED}
        for row in read_rows(job)
    ]


class RunningSweep(Running):
    """`python -m babygpt_exp -m ...` that is going on."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str], folder: Path) -> None:
        super().__init__("-m", *arguments, f"hydra.sweep.dir={folder}", cwd=cwd, env=env)
        self.sweep = folder
        self.held: list[int] = []

    def job(self) -> int:
        """Process id of the job that runs: the child that calls itself as its parent does."""
        parent = self.process.pid
        name = Path(f"/proc/{parent}/cmdline").read_bytes()
        for line in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{line}/cmdline").read_bytes() == name:
                return int(line)
        raise AssertionError(f"{parent} has no job")

    def wait_for_job(self, number: int, rows: int) -> None:
        """Until a job's metrics.csv has some rows."""
        path = self.sweep / str(number) / "metrics.csv"

        def has_rows() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return path.exists() and path.read_text().count("\n") > rows

        wait_until(has_rows, f"{rows} rows of {path}")

    def hold_job(self, number: int, rows: int) -> None:
        """SIGSTOP for a job whose metrics.csv has some rows, until `stop` or `kill`."""
        self.wait_for_job(number, rows)
        self.held.append(process_with(self.sweep / str(number)))
        os.kill(self.held[-1], signal.SIGSTOP)

    def stop(self, number: signal.Signals) -> Outcome:
        """Send a signal and wait for the end; jobs that are held go on when it has reached them."""
        self.process.send_signal(number)
        for pid in self.held:
            wait_until(partial(is_pending, number, pid), f"a signal for {pid}")
        self.release()
        return self.end()

    def kill(self) -> None:
        """End it if it still runs; no job stays held."""
        self.release()
        super().kill()

    def release(self) -> None:
        """Let the jobs go on that are held."""
        while self.held:
            with suppress(ProcessLookupError):
                os.kill(self.held.pop(), signal.SIGCONT)

    def kill_job(self) -> None:
        """SIGKILL for the job alone."""
        os.kill(self.job(), signal.SIGKILL)

    def end(self) -> Outcome:
        """Wait for its end."""
        output, errors = self.process.communicate(timeout=SECONDS)
        return Outcome(self.process.returncode, output, errors, self.cwd)


def process_with(folder: Path) -> int:
    """Process id of the run that has the lock of a folder."""
    lock = os.path.realpath(folder / ".lock")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it may have ended, or be another user's
            for handle in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):  # a file may have been closed
                    if os.readlink(handle.path) == lock:
                        return int(pid)
    raise AssertionError(f"no process has {lock}")


def is_pending(number: signal.Signals, pid: int) -> bool:
    """Whether a process that is stopped has been sent a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def started(outcome: Outcome) -> list[int]:
    """Numbers of the jobs that a sweep has run, in order."""
    return [int(n) for n in re.findall(r"\[HYDRA\] #(\d+) : \w+=", outcome.output)]
