"""What W&B has of a run, read back from its .wandb file and compared with the run's folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from experiment_harness import of_type, read_rows, read_samples, read_summary, read_wandb

from babygpt_exp.tracking.history import COLUMNS
from babygpt_exp.tracking.names import run_name

EXIT_CODES = {"completed": {0}, "failed": {1, 2}, "interrupted": {130, 143}}
"""Exit status of a run's process by the status in its summary."""


def newest_log(job_folder: Path) -> Path:
    """The .wandb file of a run; that of its last start if it went on."""
    logs = job_folder.glob("wandb/*run-*/run-*.wandb")
    return max(logs, key=lambda log: log.stat().st_mtime_ns)


def linked_logs(sweep_folder: Path) -> dict[str, Path]:
    """The .wandb file of each job of a sweep, by the number of the job, as W&B finds them."""
    logs = list((sweep_folder / "wandb").glob("*run-*/run-*.wandb"))
    found = {log.resolve().parents[2].name: log for log in logs}
    assert len(found) == len(logs), logs
    return found


def read_sweep(sweep_folder: Path, env: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The W&B records of each job of a sweep, by the number of the job."""
    return {number: read_wandb(log, env) for number, log in linked_logs(sweep_folder).items()}


def assert_sweep_same(sweep_folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """Fail unless `read_sweep` found every run of a sweep, each as its folder is, in one group."""
    started = {log.parents[2].name for log in sweep_folder.glob("*/wandb/*run-*/run-*.wandb")}
    assert records.keys() == started
    for number, found in records.items():
        assert_same(sweep_folder / number, found)
    runs = [of_type(found, "run")[0] for found in records.values()]
    assert len({run["run_group"] for run in runs}) == 1
    assert len({run["run_id"] for run in runs}) == len(runs)
    if (sweep_folder / "summary.csv").exists():
        assert_table_same(sweep_folder, records)


def assert_table_same(sweep_folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """Fail unless summary.csv states what W&B has of each run."""
    with (sweep_folder / "summary.csv").open(newline="") as file:
        rows = {row["job"]: row for row in csv.DictReader(file)}
    for number, found in records.items():
        row, summary = rows[number], last_summary(found)
        assert of_type(found, "run")[0]["display_name"] in (row["name"], run_name([]))
        assert of_type(found, "exit")[0].get("exit_code", 0) in EXIT_CODES[row["status"]]
        for name in row.keys() & summary.keys() - {"status", "error"}:
            assert (float(row[name]) if row[name] else None) == summary[name], name


def assert_same(job_folder: Path, records: list[dict[str, Any]]) -> None:
    """Fail unless the records say what the folder does: names, curves, samples, summary, end."""
    summary = read_summary(job_folder)
    run = of_type(records, "run")[0]
    assert run["run_id"] == summary["run_id"]
    assert run["display_name"] == run_name(summary["distinct"])
    assert run.get("run_group") == summary["sweep"]
    assert run["job_type"] == "train"
    rows = read_rows(job_folder) if (job_folder / "metrics.csv").exists() else []
    assert curves(records) == [
        {name: float(text) for name, text in row.items() if text} for row in rows
    ]
    has_samples = (job_folder / "samples.jsonl").exists()
    assert table(job_folder, records) == (read_samples(job_folder) if has_samples else [])
    plain = {key: value for key, value in summary.items() if not isinstance(value, dict | list)}
    logged = last_summary(records)
    assert {key: logged.get(key) for key in plain} == plain
    (end,) = of_type(records, "exit")
    assert end.get("exit_code", 0) in EXIT_CODES[summary["status"]]


def curves(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The rows of metrics that were logged."""
    history = [record["item"] for record in of_type(records, "history")]
    return [
        {name: value for name, value in item.items() if name in COLUMNS}
        for item in history
        if "samples.path" not in item
    ]


def table(job_folder: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the last table of samples; none if none was logged."""
    history = [record["item"] for record in of_type(records, "history")]
    paths = [item["samples.path"] for item in history if "samples.path" in item]
    if not paths:
        return []
    logged = json.loads((newest_log(job_folder).parent / "files" / paths[-1]).read_text())
    return [dict(zip(logged["columns"], row, strict=True)) for row in logged["data"]]


def last_summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary that W&B shows."""
    summary: dict[str, Any] = {}
    for record in of_type(records, "summary"):
        summary |= record["update"]
    return summary
