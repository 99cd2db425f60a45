"""Does a clone work for anybody? `python tests/clean_clone.py [--run] [--all]`.

Clones the HEAD of this repository into a folder with spaces in its name, whose user has a HOME
that cannot be written and no rights but those to the clone: where root starts it, a number that
no account has, as in many containers. There it makes the environment and runs the tests of the
documents; with `--run` also `make run` up to its first curve, with `--all` `make test`. A line a
step, with its seconds; exit status 1 at the first that fails, whose last lines are printed. What
was made is taken away at the end.

Packages come from where pip gets them for whoever starts it: its variables and its configuration
are handed on.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FREE_IDS = range(61_000, 65_000)
"""Of the user where root starts it."""
KEPT = ("PATH", "LANG", "LC_", "PIP_", "SSL_", "http", "HTTP", "no_proxy", "NO_PROXY")
"""How the names of the variables begin that the user has too."""
PYTEST = (".venv/bin/python", "-m", "pytest", "--quiet")
DOCUMENTS = ("tests/test_readme.py", "tests/test_docs.py")
"""What holds the commands of README and docs."""
INSTALL_SECONDS, RUN_SECONDS, TEST_SECONDS = 3600.0, 3600.0, 7200.0
"""Most that a step may take."""
STOP_SECONDS = 120.0
"""Most that a run may take to end once it is told to."""
SHOWN_LINES = 30
"""Of a step that failed."""
HAS_VENV = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"


class FailedError(Exception):
    """A step that did not do what it should; its last lines."""


class Clone:
    """A clone, its user, and what that user types there."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "a b c" / "baby gpt"
        self.home, self.scratch = place / "read-only home", place / "tmp"
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:
            taken = {account.pw_uid for account in pwd.getpwall()}
            number = next(each for each in FREE_IDS if each not in taken)
            self.user = {"user": number, "group": number, "extra_groups": []}
        kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        self.env = kept | {
            "HOME": str(self.home),
            "TMPDIR": str(self.scratch),
            "PIP_CACHE_DIR": str(self.scratch / "pip"),
        }

    def make(self) -> None:
        """The clone, the HOME and the folder for temporary files, and whose they are."""
        self.folder.parent.mkdir(parents=True)
        clone = ["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(self.folder)]
        subprocess.run(clone, check=True, timeout=INSTALL_SECONDS)
        self.home.mkdir()
        self.scratch.mkdir()
        for name in (".pip/pip.conf", ".config/pip/pip.conf"):
            if (Path.home() / name).exists():
                shutil.copy(Path.home() / name, self.scratch / "pip.conf")
                self.env["PIP_CONFIG_FILE"] = str(self.scratch / "pip.conf")
        if self.user:
            for top in (self.folder.parent, self.scratch):
                for path in (top, *top.rglob("*")):
                    os.chown(path, self.user["user"], self.user["group"], follow_symlinks=False)
        self.home.chmod(0o555)

    def check_home(self) -> None:
        """Nobody wrote into it, nor could have."""
        if self.succeeds("touch", str(self.home / "file")):
            raise FailedError(f"{self.home} can be written")

    def start(self, *words: str, output: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """A command of the user's, in the clone, in a session of its own."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
            **self.user,
        )

    def succeeds(self, *words: str) -> bool:
        """Whether a short command ends well; also not, where it cannot be started."""
        try:
            return self.start(*words).wait(STOP_SECONDS) == 0
        except OSError:
            return False

    def run(self, *words: str, seconds: float) -> str:
        """What a command says; FailedError with the last of it where it fails."""
        with self.log() as log:
            process = self.start(*words, output=log)
            with ended(process):
                try:
                    end = f"exit status {process.wait(seconds)}"
                except subprocess.TimeoutExpired:
                    end = f"no end after {seconds:.0f} s"
            said = read(log)
        if end != "exit status 0":
            raise FailedError(f"{end}: {' '.join(words)}\n{last_lines(said)}")
        return said

    @contextmanager
    def log(self) -> Iterator[Any]:
        """A file that takes what a command says, however much it is."""
        with tempfile.TemporaryFile() as file:
            yield file

    def python(self) -> str:
        """A Python that this user can start, and that can make a virtual environment."""
        base = Path(sys.base_prefix, "bin", "python3")
        names = [str(base), "python3", "/usr/bin/python3"]
        names += [f"python3.{minor}" for minor in range(11, 16)]
        found = next((name for name in names if self.succeeds(name, "-c", HAS_VENV)), None)
        if found is None:
            raise FailedError("no Python from 3.11 on, with venv, that this user can start")
        return found


def read(file: Any) -> str:
    """All that was written to it so far."""
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def last_lines(said: str) -> str:
    """The end of it."""
    return "\n".join(said.splitlines()[-SHOWN_LINES:])


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Nothing of its session is left."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)


def run_up_to_curve(clone: Clone, python: str) -> None:
    """`make run` until there is a curve; then Ctrl-C, and a checkpoint is left."""
    deadline = time.monotonic() + RUN_SECONDS
    with clone.log() as log:
        process = clone.start("make", "run", f"PYTHON={python}", output=log)
        with ended(process):
            while not (curves := list(clone.folder.glob("outputs/*/*/training_curve.svg"))):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise FailedError(f"no curve\n{last_lines(read(log))}")
                time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_SECONDS)
            said = read(log)
    folder = curves[0].parent
    summary = json.loads((folder / "summary.json").read_text())
    if summary["status"] != "interrupted" or not (folder / "checkpoints" / "last.ckpt").exists():
        raise FailedError(f"{summary['status']}\n{last_lines(said)}")


def step(what: str, work: Callable[[], Any]) -> Any:
    """Do one thing, and say so with the seconds that it took."""
    began = time.monotonic()
    try:
        return work()
    except FailedError as error:
        what = f"{what}: FAILED\n{error}"
        raise
    finally:
        print(f"{time.monotonic() - began:8.1f} s  {what}", flush=True)


def main() -> None:
    """Clone, install, run, test, take away."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("--run", action="store_true", help="`make run` up to its first curve")
    parser.add_argument(
        "--all", action="store_true", help="all tests (`make test`), not those of the documents"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder where it is")
    options = parser.parse_args()
    test = ["make", "test"] if options.all else [*PYTEST, *DOCUMENTS]
    place = Path(tempfile.mkdtemp(prefix="clean-clone-"))
    place.chmod(0o755)
    clone = Clone(place)
    try:
        step("git clone", clone.make)
        step("HOME cannot be written", clone.check_home)
        python = step("a Python", clone.python)
        install = ("make", "install-dev", f"PYTHON={python}")
        step("make install-dev", lambda: clone.run(*install, seconds=INSTALL_SECONDS))
        if options.run:
            step("make run, to its first curve", lambda: run_up_to_curve(clone, python))
        said = step(" ".join(test), lambda: clone.run(*test, seconds=TEST_SECONDS))
        print(said.splitlines()[-1])
        step("HOME still cannot be written", clone.check_home)
    except FailedError:
        sys.exit(1)
    finally:
        if options.keep:
            print(f"left in {place}")
        else:
            clone.home.chmod(0o755)
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
