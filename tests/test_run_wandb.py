"""What W&B has of one tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import (
    TinyRun,
    of_type,
    read_rows,
    read_samples,
    read_wandb,
)

from babygpt_exp.tracking.history import COLUMNS

TABLE = ["step", "tokens", "kind", "prompt", "text"]


@pytest.fixture(scope="module")
def rows(tiny_run: TinyRun) -> list[dict[str, str]]:
    return read_rows(tiny_run.folder)


@pytest.fixture(scope="module")
def samples(tiny_run: TinyRun) -> list[dict[str, Any]]:
    return read_samples(tiny_run.folder)


@pytest.fixture(scope="module")
def wandb_folder(tiny_run: TinyRun) -> Path:
    (folder,) = tiny_run.folder.glob("wandb/offline-run-*")
    return folder


@pytest.fixture(scope="module")
def records(wandb_folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    (log,) = wandb_folder.glob("run-*.wandb")
    return read_wandb(log, environment)


class TestWandb:
    """The W&B log, read back with W&B's own reader."""

    def test_curves_equal_the_metrics(
        self, records: list[dict[str, Any]], rows: list[dict[str, str]]
    ) -> None:
        history = [record["item"] for record in of_type(records, "history")]
        logged = [item for item in history if "samples.path" not in item]
        ours = [{k: float(v) for k, v in row.items() if v} for row in rows]
        assert [{k: v for k, v in item.items() if k in COLUMNS} for item in logged] == ours

    def test_samples_table_equals_the_file(
        self,
        records: list[dict[str, Any]],
        wandb_folder: Path,
        samples: list[dict[str, Any]],
    ) -> None:
        history = [record["item"] for record in of_type(records, "history")]
        paths = [item["samples.path"] for item in history if "samples.path" in item]
        assert len(paths) == 4
        table = json.loads((wandb_folder / "files" / paths[-1]).read_text())
        assert table["columns"] == TABLE
        assert table["data"] == [[sample[name] for name in TABLE] for sample in samples]

    def test_tokens_are_the_x_axis(self, records: list[dict[str, Any]]) -> None:
        axes = {
            metric["name"]: metric.get("step_metric")
            for metric in of_type(records, "metric")
            if metric.get("name")
        }
        for column in set(COLUMNS) - {"tokens"}:
            assert axes[column] == "tokens"

    def test_ended_well_and_belongs_to_no_group(self, records: list[dict[str, Any]]) -> None:
        (end,) = of_type(records, "exit")
        assert end.get("exit_code", 0) == 0
        run = of_type(records, "run")[0]
        assert not run.get("run_group")
        assert run["project"] == "babygpt"

    def test_config_is_logged(self, records: list[dict[str, Any]]) -> None:
        text = json.dumps(of_type(records, "run")[0]["config"])
        assert "max_tokens" in text
        assert "num_layers" in text
