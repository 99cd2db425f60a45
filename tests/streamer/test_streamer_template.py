"""Templates of instructions: what they make of a row, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.cache import TokenCache
from streamer.cli import main
from streamer.errors import SourceError
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec
from streamer.sources.template import Template

Row = dict[str, str | None]


class TestTemplate:
    @pytest.mark.parametrize(
        ("pieces", "values", "prompt"),
        [
            (["a {b} c"], {"b": "{b} {c}"}, "a {b} {c} c"),
            (["a {b}", "{c}", "!"], {"b": "x", "c": ""}, "a x!"),
            (["{b}{c}", "!"], {"b": "x", "c": None}, "!"),
            (["{b}", "{c}"], {"b": "x"}, "x"),
            (["{with space}"], {"with space": r"\1 $"}, r"\1 $"),
        ],
    )
    def test_fill(self, pieces: list[str], values: Row, prompt: str) -> None:
        assert Template(pieces).fill(values) == prompt

    @pytest.mark.parametrize(
        ("pieces", "problem"),
        [
            ([], "no {column}"),
            (["none"], "no {column}"),
            (["{a"], "brace"),
            (["{}"], "brace"),
            (["{{a}}"], "brace"),
            (["{a}", "}"], "brace"),
            (["{a}"] * 65, "64 pieces"),
        ],
    )
    def test_refuses(self, pieces: list[str], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            Template(pieces)


def test_a_prompt_that_is_not_utf8_is_a_bad_document(tmp_path: Path) -> None:
    table = pa.table({"question": pa.array([b"good", b"\xff", b"fine"]), "answer": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    shelf = Shelf(TokenCache(tmp_path / "cache").disk)
    for mode, texts in (("skip", ["good", "a", "fine", "c"]), ("error", None)):
        spec = SourceSpec(str(tmp_path / "a.parquet"), 1.0, "answer", mode, ("{question}",))
        (shard,) = shelf.list_source(spec).shards
        if texts is not None:
            assert shelf.read_shard(shard, spec) == texts
            continue
        with pytest.raises(SourceError, match="row group 0 row 1 is not UTF-8"):
            shelf.read_shard(shard, spec)


def test_a_bad_template_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source=a.parquet", "--prompt={question"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--prompt has a brace")
