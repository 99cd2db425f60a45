"""`tokenizer=file`: the file is read once; from then on the checkpoint has what was in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_harness import QUIET, Outcome, TinyRun

from babygpt_exp.trained import load_trained

SHORT = [word for word in QUIET if not word.startswith("tokenizer.")]


@pytest.fixture
def run(babygpt: Callable[..., Outcome], tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A finished run whose tokenizer's file is gone."""
    file = tmp_path / "tokenizer.json"
    file.write_bytes((tiny_run.folder / "tokenizer.json").read_bytes())
    done = babygpt(*SHORT, "tokenizer=file", "tokenizer.path=tokenizer.json")
    assert done.exit_code == 0, done.errors
    file.unlink()
    return done.folder


def test_model_loads_without_it(run: Path) -> None:
    tokenizer = load_trained(run, "last").tokenizer
    assert tokenizer.json == (run / "tokenizer.json").read_text(encoding="utf-8")


def test_run_goes_on_without_it(run: Path, babygpt: Callable[..., Outcome]) -> None:
    done = babygpt(f"resume={run}", "run.max_tokens=20480")
    assert done.exit_code == 0, done.errors


def test_run_starts_from_it_without_it(run: Path, babygpt: Callable[..., Outcome]) -> None:
    done = babygpt(*QUIET, f"init_from={run}")
    assert done.exit_code == 0, done.errors


def test_new_run_is_refused(run: Path, babygpt: Callable[..., Outcome]) -> None:
    done = babygpt(*SHORT, "tokenizer=file", "tokenizer.path=tokenizer.json")
    assert (done.exit_code, done.errors) == (2, "error: tokenizer.path=tokenizer.json is no file\n")


def test_another_file_that_is_not_there_is_refused(
    run: Path, babygpt: Callable[..., Outcome]
) -> None:
    done = babygpt(f"resume={run}", "run.max_tokens=20480", "tokenizer.path=other.json")
    assert (done.exit_code, done.errors) == (2, "error: tokenizer.path=other.json is no file\n")
