"""The table of `experiment=ablation`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from experiment_harness import REPOSITORY


def test_table(tmp_path: Path) -> None:
    bits = {("base", 1): 2.0, ("base", 2): 2.2, ("tied_head", 1): 1.9, ("tied_head", 2): 2.12}
    for number, ((option, seed), value) in enumerate(bits.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        summary = {
            "status": "completed",
            "seed": seed,
            "overrides": [f"ablation={option}", f"seed={seed}"],
            "final_val_bpb": value,
            "tokens_per_s": 100.0 if option == "base" else 90.0,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    failed = tmp_path / "failed"
    failed.mkdir()
    overrides = ["ablation=swiglu", "seed=1"]
    summary = {"status": "failed", "seed": 1, "overrides": overrides, "final_val_bpb": None}
    (failed / "summary.json").write_text(json.dumps(summary))
    script = REPOSITORY / "docs" / "ablation.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[2:] == [
        "| `tied_head` | the embedding is the head | 2.0100 +- 0.1100 | -0.0900 +- 0.0100 | 0.90 |",
        "| `base` | modern as it is by default | 2.1000 +- 0.1000 |  | 1.00 |",
    ]
