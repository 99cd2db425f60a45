"""Runs of which only the numbers are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from hypothesis import strategies as st

from babygpt_exp.report.content import Run, Status

SCORES = st.floats(0.5, 8.0).map(lambda score: round(score, 6))


def run(score: float | None, status: Status = "completed", **varied: str) -> Run:
    """A run with a score, seed 1 unless that varies."""
    return Run(
        folder=Path("/", *varied.values()),
        number=None,
        name=",".join(varied.values()),
        status=status,
        error=None,
        seed=int(varied.get("seed", "1")),
        varied=varied,
        summary={"status": status, "final_val_bpb": score},
        rows=pd.DataFrame(),
        samples=[],
    )


def sweep(scores: Mapping[str, float | None]) -> tuple[list[Run], list[str]]:
    """Runs by "optimizer model seed", and keys."""
    keys = ["optimizer", "model", "seed"][: len(next(iter(scores)).split())]
    if len(next(iter(scores)).split()) == 2:
        keys = ["optimizer", "seed"]
    runs = [run(score, **dict(zip(keys, at.split(), strict=True))) for at, score in scores.items()]
    return runs, keys
