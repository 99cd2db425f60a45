"""Runs as their folders have them, whatever state those are in."""

from __future__ import annotations

import csv
import fcntl
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.folder import NO_LOCKS, RunFolder
from babygpt_exp.report.comparison import make_differences, make_groups, make_importances, words
from babygpt_exp.report.content import Report, Run, Status
from babygpt_exp.saved import plain_config, read_summary
from babygpt_exp.summary import STILL_RUNNING
from babygpt_exp.tracking.history import COLUMNS, read_samples, whole_lines

if TYPE_CHECKING:
    import pandas as pd

ORDER: tuple[Status, ...] = ("completed", "running", "interrupted", "failed")
"""Which runs come first."""

KILLED = "killed before it could say why"
"""Why a run is interrupted that has not said anything and does not run."""

NO_SUMMARY = "no summary.json: it has not begun yet, or ended before it could say why"
"""What is known of a job that has left nothing but a folder."""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).exists() for name in ("summary.json", "config.yaml"))


def run_folders(folder: Path) -> list[Path]:
    """The run in a folder, or the jobs of a sweep by number; UserError if there are none."""
    if is_run(folder):
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give that of a run or of a sweep")
    jobs = [
        path
        for path in folder.iterdir()
        if path.is_dir() and (path.name.isdecimal() or is_run(path))
    ]
    if not jobs:
        raise UserError(
            f"{folder} has no runs: give a run's folder (it has a summary.json) or a sweep's "
            "(its jobs are in 0, 1, ...), as outputs/DATE/TIME or multirun/DATE/TIME"
        )
    return sorted(jobs, key=lambda path: (job_number(path) is None, job_number(path), path.name))


def job_number(folder: Path) -> int | None:
    """Number of a job, by the name of its folder."""
    return int(folder.name) if folder.name.isdecimal() else None


def typed_overrides(folder: Path) -> list[str]:
    """What a sweep was called with, by Hydra's multirun.yaml; nothing if that can not be read."""
    try:
        config = OmegaConf.create(plain_config(folder / "multirun.yaml"))
    except ConfigError:
        return []
    return [str(word) for word in OmegaConf.select(config, "hydra.overrides.task") or []]


def split_override(override: str) -> tuple[str, str]:
    """Key and value of an override, without the signs that add and remove."""
    key, _, value = override.partition("=")
    if value in ("True", "False", "None"):  # as Hydra writes some of them
        value = {"None": "null"}.get(value, value.lower())
    return key.lstrip("+"), value


def is_swept(typed: str) -> bool:
    """Whether an override was typed with several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(typed).is_sweep_override()
    except HydraException:
        return False


def is_running(folder: Path) -> bool | None:
    """Whether a process has the lock of a run's folder; None where there are no locks."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until it is closed, at once
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    finally:
        os.close(handle)
    return False


def status_of(folder: Path, summary: Mapping[str, Any]) -> tuple[Status, str | None]:
    """How a run ended and why; a summary that was never ended says neither."""
    status, error = summary.get("status"), summary.get("error")
    if status == "completed":
        return "completed", None
    error = " ".join(str(error or "").split())
    if status == "failed":
        return "failed", error or "it does not say why"
    running = is_running(folder)
    if running:
        return "running", None
    if not summary:
        return "interrupted", NO_SUMMARY
    return "interrupted", KILLED if error == STILL_RUNNING and running is False else error


def read_rows(path: Path) -> pd.DataFrame:
    """metrics.csv as numbers, NaN where nothing was measured; a row that is not whole is none."""
    import pandas as pd

    text = whole_lines(path)
    if not text.strip():
        return pd.DataFrame(columns=list(COLUMNS), dtype="float64")
    rows = pd.read_csv(io.StringIO(text), quoting=csv.QUOTE_NONE, on_bad_lines="skip")
    rows = rows.reindex(columns=list(COLUMNS)).apply(pd.to_numeric, errors="coerce")
    found: pd.DataFrame = rows.astype("float64").dropna(subset=["step", "tokens", "seconds"])
    return found.reset_index(drop=True)


def with_last_row(summary: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    """The summary of a run that could not end it, with what its rows know."""
    if summary.get("tokens") or rows.empty:
        return summary
    last = rows[["step", "tokens", "seconds"]].max()
    best = rows["val/bpb"].min()  # NaN without any
    return summary | {
        "steps": int(last["step"]),
        "tokens": int(last["tokens"]),
        "seconds": float(last["seconds"]),
        "best_val_bpb": float(best) if best == best else None,
    }


def varied_values(
    typed: Sequence[str], overrides: Mapping[Path, Mapping[str, str]]
) -> dict[str, dict[Path, str]]:
    """Values by folder of each key that differs, or will; keys in order typed, then as they come.

    A run without the override has what its config.yaml says; "" if that says nothing either.
    """
    keys = dict.fromkeys(split_override(word)[0] for word in typed)
    keys |= dict.fromkeys(key for values in overrides.values() for key in values)
    swept = {split_override(word)[0] for word in typed if is_swept(word)}
    configs: dict[Path, dict[str, Any]] = {}
    varied = {}
    for key in keys:
        found = {folder: values.get(key) for folder, values in overrides.items()}
        if not any(value is not None for value in found.values()):
            continue
        for folder in [folder for folder, value in found.items() if value is None]:
            if folder not in configs:
                configs[folder] = config_of(folder)
            found[folder] = config_value(configs[folder], key)
        if len(set(found.values())) > 1 or key in swept:
            varied[key] = {folder: str(value) for folder, value in found.items()}
    return varied


def config_of(folder: Path) -> dict[str, Any]:
    """A run's config.yaml; empty if it can not be read."""
    try:
        return plain_config(RunFolder(folder).config)
    except ConfigError:
        return {}


def config_value(config: Mapping[str, Any], key: str) -> str:
    """The value of a key in a config, of a group its option; "" if it does not say."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    if isinstance(value, Mapping):
        value = value.get("name", "")
    return split_override(f"{key}={'null' if value is None else value}")[1]


def read_runs(folders: Iterable[Path], typed: Sequence[str] = ()) -> tuple[list[str], list[Run]]:
    """Keys that differ between runs, and the runs in the order of their folders."""
    summaries = {}
    for folder in folders:
        summary = read_summary(RunFolder(folder))
        summaries[folder] = summary if isinstance(summary, dict) else {}
    overrides = {
        folder: dict(split_override(str(word)) for word in summary.get("overrides") or [])
        for folder, summary in summaries.items()
        if summary
    }
    varied = varied_values(typed, overrides)
    runs = []
    for folder, summary in summaries.items():
        values = {key: found.get(folder, "") for key, found in varied.items()}
        name = words(values) or folder.resolve().name
        runs.append(read_run(folder, name, values, summary))
    return list(varied), with_own_names(runs)


def read_run(folder: Path, name: str, varied: Mapping[str, str], summary: dict[str, Any]) -> Run:
    """A run with what its files have that are there."""
    files = RunFolder(folder)
    status, error = status_of(folder, summary)
    rows = read_rows(files.metrics)
    seed = summary.get("seed")
    if seed is None and varied.get("seed", "").isdecimal():
        seed = int(varied["seed"])
    return Run(
        folder=folder,
        number=job_number(folder),
        name=name,
        status=status,
        error=error,
        seed=seed,
        varied=varied,
        summary=with_last_row(summary, rows) if summary else {},
        rows=rows,
        samples=[vars(sample) for sample in read_samples(files.samples)],
    )


def with_own_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, those with a name that others have too by their folder as well."""
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({run.folder.resolve().name})")
        if names.count(run.name) > 1
        else run
        for run in runs
    ]


def read_report(folder: Path) -> Report:
    """What there is to say of a sweep's folder, or of a run's."""
    keys, runs = read_runs(run_folders(folder), typed_overrides(folder))
    if is_run(folder):
        runs = [replace(run, number=None) for run in runs]
    groups = make_groups(runs, keys)
    differences, notes = make_differences(groups)
    importances, more_notes = make_importances(runs, keys)
    return Report(
        title=title_of(folder),
        folder=folder,
        keys=keys,
        runs=sorted(runs, key=place_of),
        groups=groups,
        differences=differences,
        importances=importances,
        notes=[*notes, *more_notes],
    )


def title_of(folder: Path) -> str:
    """Date, time and number of job, as the folders are called; as W&B's group of a sweep."""
    names = folder.resolve().parts
    return "_".join(names[-3:] if names[-1].isdecimal() else names[-2:]).lstrip("/")


def place_of(run: Run) -> tuple[int, float]:
    """Where a run stands among others: best first, failed ones last."""
    score = math.inf if run.score is None else run.score
    return ORDER.index(run.status), score
