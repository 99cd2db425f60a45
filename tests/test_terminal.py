"""What a run says: plain lines in a pipe, colours and a live line on a terminal."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import os
import pty
import re
import subprocess
import sys
from types import ModuleType
from xml.etree import ElementTree

import pytest
from experiment_harness import REPOSITORY, SECONDS
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from babygpt_exp.config_tree import Branch, branches, plain_lines, rich_tree
from babygpt_exp.options import CONF
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

    def test_a_narrow_terminal_goes_without_what_is_least_needed(self) -> None:
        state = Progressing(100)
        state.update(ROW)
        assert state.fitted(len(state.text)) == state.text
        assert state.fitted(50) == "loss 3.250 | 1,234 tok/s | wait 1.5% | 03:10 left"
        assert state.fitted(10) == "loss 3.250 | 1,234 tok/s | 03:10 left"

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


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """docs/terminal.py, which draws what a run says."""
    spec = importlib.util.spec_from_file_location("drawing", REPOSITORY / "docs" / "terminal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestPicture:
    """What is left on a terminal in the end, drawn."""

    def test_live_lines_are_there_once(self, drawing: ModuleType, on_a_terminal: str) -> None:
        lines = drawing.screen(on_a_terminal)
        assert sum("5/100" in line for line in lines) == 1
        assert sum("manual sample" in line for line in lines) == 1
        assert not any("takes longest" in line for line in lines)

    def test_fetches_nothing(self, drawing: ModuleType, on_a_terminal: str) -> None:
        svg = drawing.picture("python -m babygpt_exp", drawing.screen(on_a_terminal))
        assert "@font-face" not in svg
        assert "url(http" not in svg
        assert "[red]hello" in html.unescape(svg).replace("\xa0", " ")
        ElementTree.fromstring(svg)


OVERRIDES = ["experiment=nanogpt", "model=nano", "optimizer.lr=1e-3", "~pruner", "seed=3"]


def tree(*overrides: str) -> list[Branch]:
    """The tree of the config that overrides compose."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        composed = compose("config", [word for word in overrides if not word.startswith("~")])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    del plain["resume"]
    return branches({str(key): value for key, value in plain.items()}, overrides)


class TestConfigTree:
    """A line a group, with what was changed marked."""

    def test_typed_and_preset_are_told_apart(self) -> None:
        found = {branch.name: branch for branch in tree(*OVERRIDES)}
        assert (found["experiment"].option, found["experiment"].mark) == ("nanogpt", "*")
        assert (found["model"].option, found["model"].mark) == ("nano", "*")
        assert (found["arch"].option, found["arch"].mark) == ("gpt2", "+")
        assert (found["data"].option, found["data"].mark) == ("sample", "")
        assert [str(entry) for entry in found["optimizer"].changed] == [
            *("*lr=0.001", "+betas=[0.9, 0.95]", "+weight_decay=0.1", "+clip=1.0"),
        ]
        assert [str(entry) for entry in found[""].changed] == ["*seed=3"]

    def test_in_a_pipe_only_what_was_changed(self) -> None:
        lines = plain_lines(tree(*OVERRIDES))
        text = "\n".join(lines)
        assert lines[0] == "config (* typed, + from a preset)"
        assert "  + schedule    cosine +warmup=0.02 +final=0.1" in lines
        assert "num_layers" not in text
        assert "as in conf/ data=sample tokenizer=bpe" in text
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 100

    def test_nothing_changed(self) -> None:
        lines = plain_lines(tree())
        assert len(lines) == 3
        assert "model=baby" in lines[1]

    @pytest.mark.parametrize("columns", [80, 120])
    def test_on_a_terminal(self, columns: int) -> None:
        console = Console(width=columns, file=io.StringIO(), force_terminal=True, record=True)
        console.print(rich_tree(tree(*OVERRIDES), columns))
        styled = console.export_text(styles=True, clear=False)
        assert re.search(r"\x1b\[1;33m[^\n]*\*lr=0.001", styled)
        assert re.search(r"\x1b\[1;36m[^\n]*\+clip=1.0", styled)
        assert re.search(r"\x1b\[2m[^\n]*vocab_size=8192", styled)
        lines = console.export_text().splitlines()
        assert len(lines) <= 20
        assert max(map(len, lines)) <= columns
        assert any("* model" in line and "nano" in line for line in lines)

    def test_an_option_without_a_name_is_known_by_its_values(self) -> None:
        found = {branch.name: branch for branch in tree("model.width=64", "model.num_heads=2")}
        assert (found["model"].option, found["model"].mark) == ("baby", "")
        values = {"num_layers": 7, "width": 1, "num_heads": 1, "context": 1}
        (only, _) = branches({"model": values}, [])
        assert only.option == ""

    def test_long_values_are_cut(self) -> None:
        (found,) = [b for b in tree("data=local", f"data.source=/{'a' * 200}") if b.name == "data"]
        assert len(str(found.changed[0])) < 70
        assert "..." in str(found.changed[0])
