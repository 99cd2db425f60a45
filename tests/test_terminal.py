"""What a run says: plain lines in a pipe, colours and a live line on a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys

import pytest
from experiment_harness import REPOSITORY, SECONDS

from babygpt_exp.terminal import PlainTerminal, Progressing, Terminal, clock_text, open_terminal
from babygpt_exp.tracking.history import Sample

ROW = {
    "step": 5,
    "tokens": 5120,
    "seconds": 10.0,
    "train/loss": 3.25,
    "lr": 0.02,
    "perf/tokens_per_s": 1234.5,
    "perf/data_wait_frac": 0.015,
}
VALIDATION = {"step": 10, "tokens": 10240, "seconds": 20.0, "val/loss": 3.5, "val/bpb": 1.75}
SAMPLE = Sample(step=5, tokens=5120, kind="manual", prompt="Steven", text=" [bold]ran\naway")

EVERYTHING = f"""
from babygpt_exp.terminal import open_terminal
from babygpt_exp.tracking.history import Sample
terminal = open_terminal()
terminal.say("[red]hello[/red]")
terminal.table("babygpt", {{"folder": "/a/b"}})
terminal.begin(100)
terminal.row({ROW!r})
terminal.samples([{SAMPLE!r}])
terminal.end()
"""


def plain(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"),
        (0.4, "00:00"),
        (59.4, "00:59"),
        (59.6, "01:00"),
        (252, "04:12"),
        (3599.6, "1:00:00"),
        (3852, "1:04:12"),
        (100_000, "27:46:40"),
    ],
)
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


class TestProgressing:
    """The newest values in words."""

    def test_nothing_yet(self) -> None:
        assert Progressing(10).text == ""
        assert Progressing(10).step == 0

    def test_words(self) -> None:
        state = Progressing(100)
        state.update(ROW)
        assert state.text == "loss 3.250 | 1,234 tok/s | wait 1.5% | lr 2.0e-02 | 03:10 left"

    def test_keeps_what_a_later_row_has_not(self) -> None:
        state = Progressing(100)
        state.update(ROW)
        state.update(VALIDATION)
        assert state.step == 10
        assert "loss 3.250 | val 3.500 = 1.750 bits/byte" in state.text
        assert state.text.endswith("03:00 left")

    def test_nothing_is_left_at_the_end(self) -> None:
        state = Progressing(10)
        state.update(VALIDATION)
        assert state.text.endswith("00:00 left")


class TestPlain:
    """In a pipe."""

    def test_is_chosen(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert isinstance(open_terminal(), PlainTerminal)

    def test_has_no_escape_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        terminal: Terminal = PlainTerminal()
        terminal.say("[red]hello[/red]")
        terminal.table("babygpt", {"a": "1", "folder": "/a/b"})
        terminal.begin(100)
        terminal.row(ROW)
        terminal.samples([SAMPLE])
        terminal.end()
        text = plain(capsys)
        assert "\x1b" not in text
        assert "\r" not in text
        lines = text.splitlines()
        assert lines[:4] == ["[red]hello[/red]", "babygpt", "  a       1", "  folder  /a/b"]
        assert lines[4].startswith("step 5/100 | loss 3.250")
        assert lines[5:] == [
            "manual sample at 5,120 tokens:",
            "    Steven[...] [bold]ran",
            "    away",
        ]

    def test_at_most_a_hundred_lines_of_steps(self, capsys: pytest.CaptureFixture[str]) -> None:
        terminal = PlainTerminal()
        terminal.begin(1000)
        for step in range(1, 1001):
            terminal.row(ROW | {"step": step})
        lines = plain(capsys).splitlines()
        assert len(lines) == 100
        assert lines[-1].startswith("step 1000/1000")

    def test_every_validation_has_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        terminal = PlainTerminal()
        terminal.begin(1000)
        terminal.row(VALIDATION | {"step": 7})
        assert plain(capsys).startswith("step 7/1000 | val 3.500 = 1.750 bits/byte")

    def test_an_empty_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        PlainTerminal().table("nothing", {})
        assert plain(capsys) == "nothing\n"


@pytest.fixture(scope="module")
def on_a_terminal() -> str:
    """What a process says whose standard output is a terminal."""
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", EVERYTHING],
        stdin=subprocess.DEVNULL,
        stdout=inner,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        cwd=REPOSITORY,
    ) as process:
        os.close(inner)
        said = b""
        with contextlib.suppress(OSError):  # Linux: the other end was closed
            while chunk := os.read(outer, 4096):
                said += chunk
        os.close(outer)
        assert process.wait(SECONDS) == 0
    return said.decode()


class TestRich:
    """On a terminal."""

    def test_has_escape_codes(self, on_a_terminal: str) -> None:
        assert "\x1b[" in on_a_terminal

    def test_shows_the_step_and_the_sample(self, on_a_terminal: str) -> None:
        for words in ("5/100", "loss 3.250", "manual sample at 5,120 tokens", "Steven", "/a/b"):
            assert words in on_a_terminal

    def test_text_is_no_markup(self, on_a_terminal: str) -> None:
        assert "[red]hello[/red]" in on_a_terminal
        assert "[bold]ran" in on_a_terminal

    def test_shows_the_cursor_again(self, on_a_terminal: str) -> None:
        assert on_a_terminal.rfind("\x1b[?25h") > on_a_terminal.rfind("\x1b[?25l")
