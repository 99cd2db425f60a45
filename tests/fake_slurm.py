"""As much of SLURM as submitit uses, on this machine: `python fake_slurm.py COMMAND ARGUMENTS`.

Its state is a folder, named by the variable FAKE_SLURM: `<job>.state` for each job or task of an
array. A batch script runs in a process of its own for each, and again if `scontrol requeue` was
called for it.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")
FIRST_ID = 1000


def state_folder() -> Path:
    """Where the state is."""
    return Path(os.environ["FAKE_SLURM"])


def set_state(job: str, state: str) -> None:
    """By rename, as it is read all the time."""
    path = state_folder() / f"{job}.state"
    path.with_suffix(".new").write_text(state)
    path.with_suffix(".new").rename(path)


def sbatch(script: str) -> None:
    """Start each task of the script's array."""
    text = Path(script).read_text()
    number = FIRST_ID + os.getpid()
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    jobs = [f"{number}_{n}" for n in range(int(array[1]) + 1)] if array else [str(number)]
    copy = state_folder() / f"{number}.sh"
    copy.write_text(text)
    for job in jobs:
        set_state(job, "PENDING")
        with (state_folder() / f"{job}.log").open("w") as log:
            subprocess.Popen(
                [sys.executable, __file__, "run", job, str(copy)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    print(f"Submitted batch job {number}")


def run(job: str, script: str) -> None:
    """A job from its beginning to its end."""
    main_id, _, task = job.partition("_")
    env = os.environ | {"SLURM_JOB_ID": main_id, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if task:
        env |= {"SLURM_ARRAY_JOB_ID": main_id, "SLURM_ARRAY_TASK_ID": task}
    again = state_folder() / f"{job}.requeue"
    while True:
        set_state(job, "RUNNING")
        done = subprocess.run(["bash", script], env=env, check=False)
        if not again.exists():
            break
        again.unlink()
    set_state(job, "COMPLETED" if done.returncode == 0 else "FAILED")


def srun(*arguments: str) -> None:
    """Be the command of a task, with its output where that is to go."""
    words = list(arguments)
    job = os.environ["SLURM_JOB_ID"]
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    while words[0].startswith("--"):
        name = words.pop(0)
        if name == "--unbuffered":
            continue
        path = words.pop(0).replace("%A", job).replace("%a", str(task)).replace("%t", "0")
        path = path.replace("%j", job)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, {"--output": 1, "--error": 2}[name])
    (state_folder() / f"{job}_{task}.pid" if task else state_folder() / f"{job}.pid").write_text(
        str(os.getpid())
    )
    os.execvp(words[0], words)


def sacct(*arguments: str) -> None:
    """A table of all jobs."""
    print("JobID|State|NodeList")
    for path in state_folder().glob("*.state"):
        print(f"{path.stem}|{path.read_text()}|{os.uname().nodename}")


def scancel(job: str, *arguments: str) -> None:
    """Not used: nobody cancels in tests."""
    raise SystemExit(f"scancel {job}")


def scontrol(action: str, job: str) -> None:
    """`scontrol requeue JOB`."""
    assert action == "requeue"
    (state_folder() / f"{job}.requeue").touch()


@contextmanager
def fake_slurm(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment of a machine that has SLURM's commands; this process's own until the end."""
    commands = folder / "bin"
    commands.mkdir(parents=True)
    for name in COMMANDS:
        path = commands / name
        words = shlex.join([sys.executable, __file__, name])
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    env = {"FAKE_SLURM": str(folder), "PATH": f"{commands}:{os.environ['PATH']}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield env


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
