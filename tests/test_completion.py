"""Shell completion of `babygpt`: what Hydra answers, and a real bash."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiment_harness import SECONDS

from babygpt_exp.cli import main as babygpt

SCRIPT = f"""#!/bin/sh
'''exec' "{sys.executable}" "$0" "$@"
' '''
from babygpt_exp.cli import main
main()
"""
"""The console script, as pip makes it where the interpreter's path has a space."""


@pytest.fixture(scope="module")
def shell_environment(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """With the console script where a shell finds it."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "babygpt"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return environment | {"PATH": f"{folder}:{environment['PATH']}", "TERM": "dumb"}


def asked(line: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What Hydra answers to a shell that completes a line."""
    return subprocess.run(
        ["babygpt", "-sc", "query=bash"],
        env=env | {"COMP_LINE": line},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("babygpt mod", "model. model="),
        ("babygpt model=nano optimizer.w", "optimizer.weight_decay="),
        ("babygpt foo model=b", ""),
        ("babygpt no_override optimizer.", ""),
        ("babygpt --cfg ", ""),
    ],
)
def test_completion_answers_and_never_complains(
    line: str, words: str, shell_environment: dict[str, str]
) -> None:
    done = asked(line, shell_environment)
    assert (done.stdout.strip(), done.stderr) == (words, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_the_console_script(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/b/__main__.py", "-sc", f"install={shell}"])
    babygpt()
    said = capsys.readouterr().out
    assert re.search(r"complete .*\bbabygpt\b", said)
    assert "__main__" not in said


def test_an_unknown_shell_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["babygpt", "-sc", "install=tcsh"])
    with pytest.raises(SystemExit) as ended:
        babygpt()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: -sc needs one of install=SHELL")


class Terminal:
    """A real shell on a pseudo-terminal: what is typed, and what it shows."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path) -> None:
        self.outer, inner = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        os.close(inner)
        os.set_blocking(self.outer, False)
        self.shown = ""

    def type(self, text: str, *, until: str) -> None:
        """Type, and wait for what it brings."""
        self.shown = ""
        os.write(self.outer, text.encode())
        deadline = time.monotonic() + SECONDS
        while until not in self.shown:
            assert time.monotonic() < deadline, self.shown
            with contextlib.suppress(BlockingIOError):
                self.shown += os.read(self.outer, 4096).decode(errors="replace")
            time.sleep(0.01)

    def close(self) -> None:
        """End the shell."""
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self.outer)


@pytest.fixture
def bash(shell_environment: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    """An interactive bash that has loaded the completion."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], shell_environment, tmp_path)
    try:
        shell.type(
            'bind "set bell-style none"; eval "$(babygpt -sc install=bash)"; echo rea""dy\n',
            until="ready",
        )
        yield shell
    finally:
        shell.close()


def test_a_real_bash_completes(bash: Terminal) -> None:
    bash.type("babygpt model=ba\t", until="model=baby")
    bash.type(" optimizer.weight\t", until="optimizer.weight_decay=")
    bash.type(" schedule=cos\t", until="schedule=cosine")
