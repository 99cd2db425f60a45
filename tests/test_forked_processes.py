"""Forks that tests start in place of fresh processes: they look, end and die as those do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiment_harness import SECONDS, wait_until
from forked_processes import Death, ForkServer

LOOKS = """
import json, os, random, signal, sys, tempfile, threading
found = {
    "name": __name__,
    "argv": sys.argv,
    "path": sys.path,
    "cwd": os.getcwd(),
    "env": dict(os.environ),
    "temporary": tempfile.gettempdir(),
    "input": sys.stdin.read(),
    "leads its session": os.getsid(0) == os.getpid(),
    "files": [name for name in os.listdir("/proc/self/fd") if int(name) > 2],
    "terminals": [file.isatty() for file in (sys.stdin, sys.stdout, sys.stderr)],
    "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
    "handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "threads": threading.active_count(),
    "main": sys.modules["__main__"].__file__,
}
print(json.dumps(found))
print("errors", file=sys.stderr)
"""
ENDS = """
import os, signal, sys, time
print("begun", flush=True)
match sys.argv[1]:
    case "exit": sys.exit(3)
    case "words": sys.exit("in words")
    case "error": raise ValueError("a bug")
    case "signal": os.kill(os.getpid(), signal.SIGKILL)
    case "sleep": time.sleep(600)
"""


@pytest.fixture(scope="module")
def env(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"PWD": "/"}


@pytest.fixture(scope="module")
def server(env: dict[str, str]) -> Iterator[ForkServer]:
    started = ForkServer("json")
    yield started
    started.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "looks.py").write_text(LOOKS)
    (tmp_path / "ends.py").write_text(ENDS)
    return tmp_path


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.unmeasured
def test_looks_like_a_fresh_one(server: ForkServer, place: Path, env: dict[str, str]) -> None:
    (place / "temporary").mkdir()
    env = env | {"TMPDIR": str(place / "temporary"), "OTHER": "1"}
    fresh = subprocess.run(
        [sys.executable, "-m", "looks", "a", "b c"],
        cwd=place,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
    )
    forked = server.start("looks", "a", "b c", cwd=place, env=env, text=True)
    output, errors = forked.communicate(SECONDS)
    assert (forked.returncode, errors) == (fresh.returncode, fresh.stderr) == (0, "errors\n")
    assert json.loads(output) == json.loads(fresh.stdout)


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [
        ("exit", 3, ""),
        ("words", 1, "in words"),
        ("error", 1, "ValueError: a bug"),
        ("signal", -signal.SIGKILL, ""),
    ],
)
def test_ends_like_a_fresh_one(
    server: ForkServer, place: Path, env: dict[str, str], how: str, code: int, last: str
) -> None:
    forked = server.start("ends", how, cwd=place, env=env)
    output, errors = forked.communicate(SECONDS)
    assert (forked.returncode, output) == (code, b"begun\n")
    assert errors.decode().splitlines()[-1:] == ([last] if last else [])


def test_can_be_waited_for_and_killed(server: ForkServer, place: Path, env: dict[str, str]) -> None:
    forked = server.start("ends", "sleep", cwd=place, env=env)
    assert forked.stdout.readline() == b"begun\n"
    assert forked.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        forked.wait(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.communicate(0.01)
    forked.terminate()
    assert forked.wait(SECONDS) == forked.poll() == -signal.SIGTERM
    forked.kill()  # nothing to do
    assert forked.communicate(SECONDS) == (b"", b"")
    wait_until(lambda: not is_alive(forked.pid), "its burial")


def test_dies_where_it_is_told_to(server: ForkServer, place: Path, env: dict[str, str]) -> None:
    death = Death("json:dumps", 1, signal.SIGTERM, pause_seconds=600)
    forked = server.start("looks", cwd=place, env=env, death=death)
    assert forked.communicate(SECONDS) == (b"", b"")
    assert forked.returncode == -signal.SIGTERM


def test_an_environment_that_comes_too_late(server: ForkServer, env: dict[str, str]) -> None:
    assert server.can_start({**env, "OMP_NUM_THREADS": "7", "HOME": "/"})
    for name in ("PYTHONPATH", "LANG", "TORCH_LOGS", "OMP_PLACES"):
        assert not server.can_start({**env, name: "other"})


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_all_end_with_who_has_started_them(place: Path, env: dict[str, str], number: int) -> None:
    """Be it killed."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from forked_processes import ForkServer\n"
        "server = ForkServer('json')\n"
        "forks = [server.start('ends', 'sleep', cwd=Path.cwd(), env=os.environ) for _ in 'ab']\n"
        "print(*(fork.pid for fork in forks), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=place,
        env={**env, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        if number:
            os.kill(process.pid, number)
    wait_until(lambda: not any(map(is_alive, pids)), "the end of the forks")
