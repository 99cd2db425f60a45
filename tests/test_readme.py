"""Every command of README.md runs, made small."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from experiment_harness import REPOSITORY, SECONDS, TINY, Outcome, TinyRun, run

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
TRAINING = [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "babygpt_exp"]]
STREAMING = [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "streamer"]]
MAKING = [words[1] for words in COMMANDS if words[0] == "make"]


def made_small(arguments: list[str]) -> list[str]:
    """A command's arguments, and those of a tiny run that it does not set itself."""
    if any(argument.startswith("--") for argument in arguments):
        return arguments
    own = {argument.partition("=")[0] for argument in arguments}
    return arguments + [word for word in TINY if word.partition("=")[0] not in own]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Folders of somebody's own text, where the README's commands look for them."""
    for name, what in (("more_texts", "song"), ("my_texts", "story")):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(60):
            lines = [f"The {number}th {what} has {count} lines, no more.\n" for count in range(40)]
            (folder / f"{number}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def stream_url(texts: Path, environment: dict[str, str]) -> Iterator[str]:
    """The README's streamer, on a port that is free."""
    (arguments,) = STREAMING
    arguments = ["0" if word == "8000" else word for word in arguments]
    with subprocess.Popen(
        [sys.executable, "-m", "streamer", *arguments],
        cwd=texts.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip()
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_readme_has_what_is_tested_here() -> None:
    assert len(TRAINING) >= 8
    assert {"run", "test"} <= set(MAKING)


@pytest.mark.parametrize("target", sorted(set(MAKING)))
def test_make_knows_each_target(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=REPOSITORY, check=True, capture_output=True)


NEEDY = [words for words in TRAINING if "data=remote" in words or "resume=" in words[0]]
"""Commands that need a streamer or a run."""


@pytest.mark.parametrize(
    "arguments", [words for words in TRAINING if words not in NEEDY], ids=" ".join
)
def test_training_command_runs(
    arguments: list[str], texts: Path, babygpt: Callable[..., Outcome]
) -> None:
    outcome = babygpt(*made_small(arguments), fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    assert outcome.errors == ""
    assert "babygpt" in outcome.output or "model:" in outcome.output


def test_remote_command_trains_from_the_streamer(
    stream_url: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (arguments,) = [words for words in TRAINING if "data=remote" in words]
    arguments = [f"data.url={stream_url}" if "data.url=" in word else word for word in arguments]
    outcome = run(*made_small(arguments), cwd=tmp_path, env=environment, fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    assert outcome.summary["tokens"] > 0
    assert not (outcome.folder / "streamer.log").exists()


def test_report_command_reports(
    tiny_run: TinyRun, tmp_path: Path, environment: dict[str, str]
) -> None:
    (arguments,) = [words[1:] for words in COMMANDS if words[2:3] == ["babygpt_exp.report"]]
    folder = tmp_path / arguments[-1]
    shutil.copytree(tiny_run.folder, folder / "0")
    outcome = run(cwd=tmp_path, env=environment, start=[sys.executable, *arguments])
    assert outcome.exit_code == 0, outcome.errors
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("command", ["generate", "evaluate", "export"])
def test_commands_of_a_trained_model(
    command: str, tiny_run: TinyRun, texts: Path, environment: dict[str, str]
) -> None:
    (arguments,) = [w[1:] for w in COMMANDS if w[2:3] == [f"babygpt_exp.{command}"]]
    shutil.copytree(tiny_run.folder, texts.parent / arguments[2])
    outcome = run(cwd=texts.parent, env=environment, start=[sys.executable, *arguments])
    assert outcome.exit_code == 0, outcome.errors


def test_resume_command_goes_on(
    tiny_run: TinyRun, tmp_path: Path, environment: dict[str, str]
) -> None:
    (arguments,) = [words for words in TRAINING if "resume=" in words[0]]
    folder = tmp_path / arguments[0].partition("=")[2]
    shutil.copytree(tiny_run.folder, folder)
    outcome = run(*arguments, "run.max_tokens=18432", cwd=tmp_path, env=environment, fresh=True)
    assert outcome.exit_code == 0, outcome.errors
    assert json.loads((folder / "summary.json").read_text())["tokens"] == 18432
