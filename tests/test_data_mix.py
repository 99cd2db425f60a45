"""`data=mix`: several corpora by weight, from the command line to the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from experiment_harness import QUIET, Outcome

WORDS = "the river runs under the bridge and Steven waits for the movie to begin "


def test_two_sources_are_mixed_and_bad_lines_left_out(
    babygpt: Callable[..., Outcome], tmp_path: Path
) -> None:
    for name, text in (("a", WORDS), ("b", WORDS.upper())):
        lines = [json.dumps({"body": f"{number} {text * 20}"}) for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, '{"body": 7}', '{"body": "cu']))
    sources = f"data.sources=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]"
    mix = [*QUIET, "data=mix", sources, "data.weights=[3,1]", "data.column=body"]
    mix += ["data.validation_fraction=0.2"]
    refused = babygpt(*mix, cwd=tmp_path)
    assert refused.exit_code == 1
    assert "a.jsonl line 61" in refused.one_error_line()

    (tmp_path / "skip").mkdir()
    done = babygpt(*mix, "data.on_bad_document=skip", cwd=tmp_path / "skip")
    assert done.exit_code == 0, done.errors
    state = torch.load(done.folder / "checkpoints" / "last.ckpt", weights_only=True)
    found = state["StreamDataModule"]
    assert [source["weight"] for source in found["plan"]["sources"]] == [3.0, 1.0]
    assert {source["on_bad_document"] for source in found["plan"]["sources"]} == {"skip"}
    assert len(found["cursor"]["sources"]) == 2
    assert "skipped 2 bad documents" in (done.folder / "streamer.log").read_text()
