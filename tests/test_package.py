"""What ships: entry points, corpus and config groups."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from experiment_harness import REPOSITORY

from babygpt_exp.data.config import SAMPLE
from babygpt_exp.options import CONF
from babygpt_exp.summary import git_commit

OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


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


def test_commit_is_that_of_this_checkout() -> None:
    commit = git_commit()
    if (REPOSITORY / ".git").exists():
        assert commit is not None
        assert re.fullmatch(r"[0-9a-f]{40}\+?", commit)
    else:
        assert commit is None
