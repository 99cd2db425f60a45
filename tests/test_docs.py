"""Every command of docs/*.md, as those of README.md; and the code of docs/add-*.md, put to use."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import PAGES, README, REPOSITORY, Command, blocks, commands, files, split, write
from documented_desk import Desk
from documented_runs import (
    RULES,
    asks,
    check,
    diagnoses,
    looks,
    rule_of,
    serves,
    streams,
    trains,
    uses,
)
from experiment_harness import EXPERIMENTS, SECONDS, TinyRun
from forked_processes import ForkServer

ADDING = [page for page in PAGES if page.stem.startswith("add-")]
TYPED = {
    (each.text, each.environment): each
    for page in reversed((README, *(page for page in PAGES if page not in ADDING)))
    for each in reversed(commands(page))
}
COMMANDS = [each for each in reversed(TYPED.values()) if each.page != "README.md"]
"""Each once, those of README.md not again."""
TREE = ("babygpt_exp", "conf", "docs", "hydra_plugins", "streamer", "tests")
"""What of the repository is copied."""
TREE_FILES = ("Makefile", "README.md", "constraints.txt", "pyproject.toml")
ONLY = {"add-a-model": "mini", "add-an-architecture": "parallel or Parallel"}
"""Which tests of a file that a page names are those of what it adds."""
NEW_CURVES = """
import test_golden as golden
for name in golden.RECIPES:
    if not (golden.GOLDEN / f"{name}.csv").exists():
        golden.write(name)
"""
"""`python tests/test_golden.py --write`, of what is new alone."""
INLINE = re.compile(r"`((?:python -m (?:babygpt_exp|streamer)|python (?:tests|docs)/|make )[^`]*)`")
"""A command in a sentence."""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command(
    command: Command, tiny_run: TinyRun, environment: dict[str, str], tmp_path: Path
) -> None:
    check(Desk(tmp_path, tiny_run.folder, EXPERIMENTS, environment), command)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the code of all pages in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in TREE:
        shutil.copytree(
            REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in TREE_FILES:
        shutil.copy(REPOSITORY / name, copy)
    for page in ADDING:
        for block in files(page):
            write(block, copy)
    return copy


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Processes that have imported the copy."""
    server = ForkServer("babygpt_exp.train", "babygpt_exp.explain", "hypothesis", "pytest", "s3fs")
    yield server
    server.close()


@pytest.mark.parametrize("page", ADDING, ids=lambda page: page.stem)
def test_page_adds_what_it_says(
    page: Path,
    tree: Path,
    forks: ForkServer,
    tiny_run: TinyRun,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Its code is in the copy; its commands are typed there, one after the other."""
    env = environment | {"PYTHONPATH": str(tree)}
    for number, command in enumerate(commands(page)):
        desk = Desk(tmp_path / str(number), tiny_run.folder, forks, env, tree)
        desk.folder.mkdir()
        if command.text.startswith("python -m pytest "):
            desk.folder = tree
            only = ["-k", ONLY[page.stem]] if page.stem in ONLY else []
            desk.run("pytest", *command.words[3:], *only, "--quiet", "-p", "no:cacheprovider")
        elif command.text.startswith("python tests/test_golden.py"):
            words = [sys.executable, "-c", NEW_CURVES]
            subprocess.run(words, cwd=tree / "tests", env=env, check=True, timeout=SECONDS)
        else:
            check(desk, command)


def test_every_page_that_adds_has_code() -> None:
    assert len(ADDING) >= 4
    assert all(files(page) for page in ADDING)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_commands_in_sentences_are_known(page: Path) -> None:
    """Of each some rule says what it is, and its program is there."""
    for text in INLINE.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
        for words in split(text):
            assert rule_of(Command(page.name, 0, (*words, ""))), text
            if words[1] == "-m":
                path = Path(*words[2].split("."))
                found = [path.with_suffix(".py"), path / "__main__.py"]
                assert any((REPOSITORY / each).exists() for each in found), text
            elif words[0] == "python":
                assert (REPOSITORY / words[1]).exists(), text


@pytest.mark.parametrize("page", [each for each in PAGES if each not in ADDING], ids=str)
def test_files_that_are_shown_are_as_they_are(page: Path) -> None:
    for block in files(page):
        assert block.text == (REPOSITORY / block.title).read_text(encoding="utf-8"), block.title


def test_links_and_pictures_are_there() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in blocks(page):
            text = text.replace(block.text, "")
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_rule_without_a_run_says_why() -> None:
    typed = (asks, diagnoses, looks, serves, streams, trains, uses)
    assert all(bool(rule.reason) != (rule.check in typed) for rule in RULES)
