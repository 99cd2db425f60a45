"""Every command of the documents is typed here, made small, or looked at as far as it goes.

`RULES` says which: the first whose pattern is found in a command's text. A rule with a reason is
for what cannot be typed here; what it does instead is its function.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from documented import Command
from documented_desk import Desk, texts
from documented_small import fewer_jobs, made_small, option
from experiment_harness import SECONDS, read_summary

PORT_OF_STREAMER, ANY_STREAMER = "8000", re.compile(r"wss?://[^,\]]+/ws")


Check = Callable[[Desk, Command], None]


def trains(desk: Desk, command: Command) -> None:
    """A run or a sweep, at a streamer of its own or at one that is started for it."""
    words = [word.replace("=/shared", "=shared") for word in command.words[3:]]
    if ANY_STREAMER.search(command.text):
        texts(desk.folder / "served")
        with desk.serving("streamer", "--source", "served/", "--port", "0") as url:
            words = [ANY_STREAMER.sub(url, word) for word in words]
            if option(words, "data.url"):
                words = [w if "data.url" not in w else f"data.url={url}" for w in words]
            ends_well(desk, words, command)
    else:
        ends_well(desk, words, command)


def ends_well(desk: Desk, words: list[str], command: Command) -> None:
    """It says no error, and every run that it made is complete."""
    small = made_small(desk, words)
    outcome = desk.run("babygpt_exp", *small, **dict(command.environment))
    assert outcome.errors == ""
    if small == words:
        assert "babygpt" in outcome.output or "model:" in outcome.output
        return
    made = [path.parent for path in desk.folder.rglob("summary.json")]
    assert made, outcome.output
    for folder in made:
        assert read_summary(folder)["status"] == "completed", folder


def uses(desk: Desk, command: Command) -> None:
    """A program that ends by itself."""
    desk.run(command.words[2], *command.words[3:])


def diagnoses(desk: Desk, command: Command) -> None:
    """The doctor, who measures nothing here."""
    desk.run("babygpt_exp.doctor", *command.words[3:], "--quick")


def streams(desk: Desk, command: Command) -> None:
    """A streamer, on a port that is free, and on this machine only."""
    swap = {PORT_OF_STREAMER: "0", "0.0.0.0": "127.0.0.1"}
    words = [swap.get(word, word) for word in command.words[3:]]
    with desk.serving("streamer", *words, *([] if "--port" in words else ["--port=0"])) as url:
        assert url.endswith("/ws")


def serves(desk: Desk, command: Command) -> None:
    """A server of a model, on a port that is free."""
    words = (*command.words[3:], "--port=0", "--precision=fp32", "--slots=2")
    with desk.serving("babygpt_exp.serve", *words) as url:
        assert url.startswith("http://127.0.0.1:")


def asks(desk: Desk, command: Command) -> None:
    """curl, to a streamer or to a server of a model."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    if f":{PORT_OF_STREAMER}" in command.text:
        texts(desk.folder / "served")
        server = desk.serving("streamer", "--source", "served/", "--port", "0")
    else:
        words = (str(desk.run_folder), "--port=0", "--precision=fp32", "--slots=2")
        server = desk.serving("babygpt_exp.serve", *words)
    with server as url:
        port = re.sub(r".*:(\d+)/.*", r"\1", url)
        words = tuple(re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", w) for w in command.words)
        curl(desk, *words, "--fail", "--max-time", "60")


def curl(desk: Desk, *words: str) -> None:
    """A program of the system's."""
    done = subprocess.run(
        words, cwd=desk.folder, env=desk.env, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr


def looks(desk: Desk, command: Command) -> None:
    """cat, head and the like."""
    curl(desk, *command.words)


def composes(desk: Desk, command: Command) -> None:
    """Its configuration, whatever starts it and wherever its jobs run."""
    words = list(command.words)
    at = next(n for n, word in enumerate(words) if word.startswith("babygpt_exp"))
    given = [word for word in words[at + 1 :] if not word.startswith("-")]
    assert desk.run("babygpt_exp", *fewer_jobs(given, 1), "--cfg", "job").output


def has_options(desk: Desk, command: Command) -> None:
    """Its program says what all its options do."""
    words = list(command.words)
    at = words.index("-m") + 1
    said = desk.run(words[at], "--help").output
    for word in words[at + 1 :]:
        if word.startswith("--"):
            assert word.partition("=")[0] in said, word


def is_script(desk: Desk, command: Command) -> None:
    """The file is there, and knows its options."""
    at = next(n for n, word in enumerate(command.words) if word.endswith(".py"))
    text = (desk.tree / command.words[at]).read_text()
    for word in command.words[at + 1 :]:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").replace("-", "[-_]")
            assert re.search(rf"\b{name}\b", text), word


def is_made(desk: Desk, command: Command) -> None:
    """make knows how."""
    words = ["make", "-n", *command.words[1:]]
    subprocess.run(words, cwd=desk.tree, check=True, capture_output=True, timeout=SECONDS)


def is_extra(desk: Desk, command: Command) -> None:
    """There is such an extra."""
    project = tomllib.loads((desk.tree / "pyproject.toml").read_text())["project"]
    for word in command.words[2:]:
        found = re.fullmatch(r"babygpt-exp\[([\w,-]+)\]", word)
        assert found, word
        assert set(found[1].split(",")) <= set(project["optional-dependencies"]), word


def is_of_wandb(desk: Desk, command: Command) -> None:
    """W&B has such a command."""
    desk.run("wandb", command.words[1], "--help")


def has_files(desk: Desk, command: Command) -> None:
    """The files after -f are there."""
    words = command.words
    for before, name in pairwise(words):
        assert before != "-f" or (desk.tree / name).exists(), name


def nothing(desk: Desk, command: Command) -> None:
    """What a shell does for itself."""


@dataclass(frozen=True)
class Rule:
    """How commands are checked in whose text a pattern is found."""

    pattern: str
    """A regular expression."""
    check: Check
    """What is done."""
    reason: str = ""
    """Why it is not typed; empty where it is."""


TRAINING = r"^python -m babygpt_exp( |$)"
RULES = (
    Rule(r"^(\.|cd|git clone|export|kill|deactivate)\b", nothing, "the shell's own, or a network"),
    Rule(r"^\. ", nothing, "the shell's own"),
    Rule(r"^make ", is_made, "installs, trains or measures for minutes"),
    Rule(r"^pip install ", is_extra, "a package registry"),
    Rule(r"^wandb ", is_of_wandb, "an account, or a terminal"),
    Rule(r"^(docker|kubectl) ", has_files, "a daemon, or a cluster"),
    Rule(r"^(torchrun|srun) .*babygpt_exp", composes, "several devices or nodes"),
    Rule(r"^srun .*streamer", has_options, "a cluster, and a store"),
    Rule(rf"{TRAINING}.*hardware=(ddp|fsdp|slurm|gpu)", composes, "several devices, or a GPU"),
    Rule(rf"{TRAINING}.*experiment=fineweb_h100", composes, "a GPU, and a network"),
    Rule(rf"{TRAINING}.*(data=fineweb|(hf|s3|https?)://)", composes, "a network"),
    Rule(rf"{TRAINING}.*hydra/launcher=(ray|submitit)", composes, "a cluster"),
    Rule(rf"{TRAINING}.*(logger.mode|WANDB_MODE)=online", composes, "an account"),
    Rule(TRAINING, trains),
    Rule(r"^python -m babygpt_exp\.bench", composes, "minutes; see tests/test_bench.py"),
    Rule(r"^python -m babygpt_exp\.dashboard", has_options, "an account"),
    Rule(r"^python -m babygpt_exp\.evaluate .*--task", has_options, "a package, and a network"),
    Rule(r"^python -m babygpt_exp\.doctor", diagnoses),
    Rule(r"^python -m babygpt_exp\.(evaluate|export|generate|report) ", uses),
    Rule(r"^python -m babygpt_exp\.serve ", serves),
    Rule(r"^python -m streamer .*(hf|s3|https?)://", has_options, "a network"),
    Rule(r"^python -m streamer ", streams),
    Rule(r"^python -m streamer\.bench", has_options, "minutes; see test_streamer_bench.py"),
    Rule(r"^python compare\.py ", nothing, "transformers; see tests/test_export.py"),
    Rule(r"^python -m pytest ", is_script, "minutes, or what a page adds: see test_docs.py"),
    Rule(r"^python (tests|docs)/", is_script, "minutes, or more, or other runs"),
    Rule(r"^curl ", asks),
    Rule(r"^(cat|head|ls|tail|tar) ", looks),
)


def rule_of(command: Command) -> Rule | None:
    """The first that is for a command, whose variables stand behind it there."""
    text = " ".join([*plain(command.words), *map("=".join, command.environment)])
    return next((rule for rule in RULES if re.search(rule.pattern, text)), None)


def check(desk: Desk, command: Command) -> None:
    """Type a command, or look at it; AssertionError where it is not as it should be."""
    words = [word.replace("$PWD", str(desk.folder)) for word in plain(command.words)]
    command = command.with_words(*words)
    found = rule_of(command)
    assert found is not None, f"no rule in {__file__} is for: {command}"
    desk.lay(command)
    found.check(desk, command)


def plain(words: Sequence[str]) -> list[str]:
    """The words with the program as `python -m MODULE`, however else it was called."""
    program = words[0].rpartition("/")[2]
    if program.startswith("babygpt"):
        name = program.removeprefix("babygpt").removeprefix("-")
        module = {"": "babygpt_exp", "stream": "streamer"}.get(name, f"babygpt_exp.{name}")
        return ["python", "-m", module, *words[1:]]
    return [program if program.startswith("python") else words[0], *words[1:]]
