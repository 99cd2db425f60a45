"""Every command of README.md runs, made small, or is looked at as far as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import README, Command, commands
from documented_runs import Desk, check
from experiment_harness import EXPERIMENTS, TinyRun

COMMANDS = commands(README)


def test_readme_has_what_is_tested_here() -> None:
    texts = [command.text for command in COMMANDS]
    assert {"make run", "make test"} <= set(texts)
    assert sum(text.startswith("python -m babygpt_exp ") for text in texts) >= 8


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command(
    command: Command, tiny_run: TinyRun, environment: dict[str, str], tmp_path: Path
) -> None:
    check(Desk(tmp_path, tiny_run.folder, EXPERIMENTS, environment), command)
