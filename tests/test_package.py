"""The house: what imports what, what ships, and how files look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from experiment_harness import REPOSITORY, SECONDS

from babygpt_exp.data.config import SAMPLE
from babygpt_exp.options import CONF
from babygpt_exp.summary import git_commit

PACKAGES = ("babygpt_exp", "hydra_plugins", "streamer")
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
)
TEXTS = sorted(
    path.relative_to(REPOSITORY)
    for folder in (*PACKAGES, "conf", "tests")
    for suffix in ("*.py", "*.yaml")
    for path in (REPOSITORY / folder).rglob(suffix)
)
OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


def imported_by(code: str) -> set[str]:
    """Names of all modules that a process has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules(package: str) -> list[str]:
    """Names of a package's modules, but for the ones that run when imported."""
    return [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.parts[0] == package and path.stem != "__main__"
    ]


def test_streamer_knows_nothing_of_models() -> None:
    names = modules("streamer")
    found = imported_by(f"import {', '.join(names)}")
    assert set(names) <= found
    assert not found & {"torch", "lightning", "babygpt_exp", "wandb", "hydra", "pandas"}


def test_command_line_imports_late_what_is_slow() -> None:
    found = imported_by("import babygpt_exp.cli")
    assert "babygpt_exp.cli" in found
    assert not found & {"torch", "lightning", "wandb", "pandas", "aiohttp", "streamer"}


def test_every_module_can_be_imported_first() -> None:
    names = modules("babygpt_exp")
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for known in [n for n in sys.modules if n.split('.')[0] == 'babygpt_exp']:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    assert "torch" in imported_by(script)


@pytest.mark.parametrize("package", ["babygpt_exp", "streamer"])
def test_entry_points_are_a_few_lines(package: str) -> None:
    lines = (REPOSITORY / package / "__main__.py").read_text().splitlines()
    assert len(lines) <= 10
    assert any("cli import main" in line for line in lines)


class TestCorpus:
    """What ships with the package."""

    def test_is_there_with_its_licence(self) -> None:
        licence = (SAMPLE.parent / "LICENSE").read_text()
        assert SAMPLE.name in licence
        assert "CC0 1.0" in licence

    def test_reads(self) -> None:
        file = pq.ParquetFile(SAMPLE)
        assert file.schema_arrow.names == ["text", "id", "url", "language"]
        assert file.metadata.num_rows == 428
        texts = file.read(["text"])["text"].to_pylist()
        assert all(text.strip() for text in texts)
        assert len(set(texts)) == 428


class TestConf:
    """The YAML files."""

    @pytest.mark.parametrize("option", OPTIONS, ids=str)
    def test_says_first_how_it_is_chosen(self, option: Path) -> None:
        lines = (CONF / option).read_text().splitlines()
        comments = [line for line in lines[:2] if line.startswith("#")]
        assert any(f"{option.parent.as_posix()}={option.stem}" in line for line in comments)

    @pytest.mark.parametrize("option", OPTIONS, ids=str)
    def test_is_short(self, option: Path) -> None:
        assert len((CONF / option).read_text().splitlines()) <= 40


class TestStyle:
    """What a linter does not see."""

    @pytest.mark.parametrize("path", TEXTS, ids=str)
    def test_is_ascii_and_ends_with_its_line(self, path: Path) -> None:
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert text.isascii()
        assert text == "" or text.endswith("\n")

    @pytest.mark.parametrize("path", SOURCES, ids=str)
    def test_is_at_most_300_lines(self, path: Path) -> None:
        assert (REPOSITORY / path).read_text().count("\n") <= 300

    @pytest.mark.parametrize("path", [p for p in SOURCES if p.stem != "__init__"], ids=str)
    def test_every_module_says_what_it_is(self, path: Path) -> None:
        assert re.match(r'r?"""', (REPOSITORY / path).read_text())


def test_no_module_is_called_utils() -> None:
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_commit_is_that_of_this_checkout() -> None:
    commit = git_commit()
    if (REPOSITORY / ".git").exists():
        assert commit is not None
        assert re.fullmatch(r"[0-9a-f]{40}\+?", commit)
    else:
        assert commit is None
