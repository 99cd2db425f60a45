"""Runs of `babygpt` as children of one process that has imported everything: quick to start.

A run can be told where to die: it sends itself a signal as it calls a function for the n-th time.
So a test kills it at a moment of its choice.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 240
"""How long a list of runs may take, if nobody says otherwise."""


@dataclass(frozen=True)
class Death:
    """Where a run gets a signal."""

    place: str
    """Module and name of a function or method, as in `babygpt_exp.module:GPTModule.nats`."""
    call: int
    """The how many-th call of it."""
    number: int = signal.SIGKILL
    """The signal."""
    pause_seconds: float = 0.0
    """How long that call takes after it."""


@dataclass(frozen=True)
class End:
    """How a run ended."""

    exit_code: int
    """Exit status, or minus the signal that ended it."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""


def run_all(
    jobs: list[tuple[list[str], Death | None]],
    *,
    cwd: Path,
    env: dict[str, str],
    seconds: float = SECONDS,
) -> list[End]:
    """Run lists of arguments one after the other, each in a process of its own."""
    words = [[arguments, vars(death) if death else None] for arguments, death in jobs]
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(words),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    return [End(**json.loads(line)) for line in done.stdout.splitlines()]


def main() -> None:
    """Read jobs from standard input, write an End a line."""
    import wandb  # noqa: F401

    import babygpt_exp.train  # noqa: F401

    for arguments, death in json.load(sys.stdin):
        print(json.dumps(forked(arguments, death)), flush=True)


def forked(arguments: list[str], death: dict[str, Any] | None) -> dict[str, Any]:
    """One run in a fork of this process."""
    files = [Path(f".{name}.{os.getpid()}") for name in ("output", "errors")]
    child = os.fork()
    if child == 0:
        for number, path in enumerate(files, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        start(arguments, death)
    _, status = os.waitpid(child, 0)
    output, errors = (path.read_text() for path in files)
    for path in files:
        path.unlink()
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "output": output,
        "errors": errors,
    }


def start(arguments: list[str], death: dict[str, Any] | None) -> None:
    """Be `babygpt`; never returns."""
    from babygpt_exp.cli import main as babygpt

    sys.argv[:] = ["babygpt", *arguments]
    code: object = 0
    try:
        if death is not None:
            prepare(**death)
        babygpt()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def prepare(place: str, call: int, number: int, pause_seconds: float = 0) -> None:
    """Put a function that sends the signal in the place of the real one."""
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), 0

    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
            time.sleep(pause_seconds)
        return real(*args, **kwargs)

    setattr(owner, name, function)


if __name__ == "__main__":
    main()
