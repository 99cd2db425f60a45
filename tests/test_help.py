"""Help of every command: quick, in lines that fit, with examples that work."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from experiment_harness import SECONDS
from hydra import compose, initialize_config_dir

from babygpt_exp.options import CONF, folded, groups_text

PARSERS = {
    "streamer": "streamer.cli",
    "streamer.bench": "streamer.bench",
    "babygpt_exp.evaluate": "babygpt_exp.evaluation.cli",
    "babygpt_exp.generate": "babygpt_exp.generation.cli",
    "babygpt_exp.serve": "babygpt_exp.serving.cli",
    "babygpt_exp.export": "babygpt_exp.export.cli",
    "babygpt_exp.report": "babygpt_exp.report.cli",
    "babygpt_exp.bench": "babygpt_exp.bench.cli",
    "babygpt_exp.dashboard": "babygpt_exp.dashboard",
    "babygpt_exp.doctor": "babygpt_exp.doctor.cli",
}
"""Where each command has its parser; training's is Hydra's."""

COMMANDS = ("babygpt_exp", *PARSERS)

ASK = """
import os, runpy, sys
name = sys.argv.pop(1)
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
finally:
    slow = {"torch", "torch._dynamo", "lightning", "wandb"} & {*sys.modules}
    print(*sorted(slow), os.environ.get("OMP_WAIT_POLICY", ""), file=sys.stderr)
"""
"""A command that says at its end which slow packages it has imported, and how threads wait."""


@dataclass(frozen=True)
class Help:
    """What a command says of itself."""

    exit_code: int
    text: str
    slow: str

    @property
    def examples(self) -> list[list[str]]:
        """The command lines under its last heading."""
        _, _, lines = self.text.partition("\nexamples:\n")
        return [shlex.split(line, comments=True) for line in lines.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def helps(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Help]:
    """Of every command, all asked at once, on a terminal that is wide."""
    cwd = tmp_path_factory.mktemp("help")
    asked = {
        name: subprocess.Popen(
            [sys.executable, "-c", ASK, name, "--help"],
            cwd=cwd,
            env=environment | {"COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in COMMANDS
    }
    found = {}
    for name, process in asked.items():
        text, slow = process.communicate(timeout=SECONDS)
        found[name] = Help(process.returncode, text, slow)
    assert not list(cwd.iterdir())
    return found


@pytest.mark.parametrize("name", COMMANDS)
class TestHelp:
    """What every help has."""

    def test_comes_without_what_is_slow(self, name: str, helps: dict[str, Help]) -> None:
        assert (helps[name].exit_code, helps[name].slow.strip()) == (0, "")

    def test_fits(self, name: str, helps: dict[str, Help]) -> None:
        assert [line for line in helps[name].text.splitlines() if len(line) > 100] == []

    def test_ends_with_examples_of_the_command(self, name: str, helps: dict[str, Help]) -> None:
        examples = helps[name].examples
        assert len(examples) >= 2
        assert {tuple(words[:2]) for words in examples} == {("python", "-m")}
        assert all(words[2] == name for words in examples)

    def test_examples_parse(self, name: str, helps: dict[str, Help]) -> None:
        for words in helps[name].examples:
            if name in PARSERS:
                parser = importlib.import_module(PARSERS[name]).build_parser()
                overrides = getattr(parser.parse_intermixed_args(words[3:]), "overrides", [])
            else:
                overrides = [word for word in words[3:] if "=" in word]
            if overrides:
                composes(overrides)

    def test_options_say_their_defaults(self, name: str, helps: dict[str, Help]) -> None:
        if name in PARSERS:
            parser = importlib.import_module(PARSERS[name]).build_parser()
            silent = [
                action.dest
                for action in parser._actions
                if action.option_strings and action.default and "default" not in str(action.help)
            ]
            assert silent == ["help"]


def composes(overrides: list[str]) -> None:
    """Asserts that Hydra takes overrides, one value of each that a sweep tries."""
    single = [re.sub(r"=([^\[,]*),.*", r"=\1", word) for word in overrides]
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        compose("config", single)


@pytest.mark.parametrize(
    "words",
    [
        ("babygpt_exp", "model.width=37"),
        ("babygpt_exp.bench", "model.width=37"),
        ("babygpt_exp.doctor", "model.width=37"),
        ("babygpt_exp.generate", "outputs/nothing"),
        ("babygpt_exp.serve", "outputs/nothing"),
        ("babygpt_exp.evaluate", "outputs/nothing", "--text", "nothing.txt"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_refused_and_what_does_not_train_comes_without_lightning_and_compiler(
    words: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode in (1, 2)
    (error, imported) = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert imported == "torch PASSIVE"


class TestTraining:
    """The help of Hydra's command."""

    def test_names_every_group_and_option(self, helps: dict[str, Help]) -> None:
        words = set(re.split(r"[\s,:]+", helps["babygpt_exp"].text))
        groups = [path for path in CONF.iterdir() if path.is_dir()]
        assert {path.name for path in groups} <= words
        assert {path.stem for group in groups for path in group.glob("*.yaml")} <= words

    def test_says_how_to_see_go_on_and_complete(self, helps: dict[str, Help]) -> None:
        for words in ("--cfg job", "resume=RUN_DIR", "-sc install=bash", "babygpt_exp.doctor"):
            assert words in helps["babygpt_exp"].text

    def test_defaults_are_those_of_the_config(self, helps: dict[str, Help]) -> None:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            chosen = compose("config", return_hydra_config=True).hydra.runtime.choices
        for group in ("model", "optimizer", "data"):
            assert f"{group}={chosen[group]}" in helps["babygpt_exp"].text


def test_long_lines_are_folded_between_words() -> None:
    line = "  group: " + ", ".join(f"option_{number}" for number in range(40))
    lines = folded(line).split("\n")
    assert max(map(len, lines)) <= 100
    assert " ".join(" ".join(lines).split()) == line.strip()
    assert max(map(len, groups_text().split("\n"))) <= 100
