"""Runs and sweeps as folders, without a run that has been trained."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babygpt_exp.tracking.history import Sample, jsonl_text
from babygpt_exp.tracking.history import csv_text as metrics_text

SCRIPT = "<script>alert(1)</script>"
ROWS = [
    {"step": step, "tokens": 1024 * step, "seconds": 0.5 * step, "train/loss": 6.0 - step}
    | ({"val/loss": 5.0 - step, "val/bpb": 4.0 - step} if step % 2 == 0 else {})
    for step in (1, 2, 3)
]
SAMPLE = Sample(2, 2048, "manual", "Steven", f" ran {SCRIPT}")


def make_run(folder: Path, *overrides: str, bits: float | None = 2.0, **changes: Any) -> Path:
    """A run's folder with all files that a report reads."""
    folder.mkdir(parents=True)
    summary: dict[str, Any] = {
        "status": "completed",
        "error": None,
        "steps": 3,
        "tokens": 3072,
        "seconds": 1.5,
        "final_train_loss": 3.0,
        "final_val_loss": 3.5,
        "final_val_bpb": bits,
        "best_val_bpb": bits,
        "tokens_per_s": 2048.5,
        "parameters": 1234,
        "overrides": ["model=nano", *overrides],
        "seed": next((int(o.split("=")[1]) for o in overrides if o.startswith("seed=")), 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    (folder / "metrics.csv").write_text(metrics_text(ROWS, header=True))
    (folder / "samples.jsonl").write_text(jsonl_text([SAMPLE]))
    return folder


def make_sweep(folder: Path) -> Path:
    """Two optimizers and two seeds, and one job that failed."""
    bits = {("adamw", 1): 2.2, ("adamw", 2): 2.31, ("muon", 1): 2.1, ("muon", 2): 2.2}
    for number, ((optimizer, seed), value) in enumerate(bits.items()):
        make_run(folder / str(number), f"optimizer={optimizer}", f"seed={seed}", bits=value)
    failed = folder / "4"
    failed.mkdir()
    summary = {
        "status": "failed",
        "error": f"ConfigError: a | b\n{SCRIPT}",
        "overrides": ["model=nano", f"optimizer={SCRIPT}|x", "seed=1"],
    }
    (failed / "summary.json").write_text(json.dumps(summary))
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that a file is, as another process would."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)
