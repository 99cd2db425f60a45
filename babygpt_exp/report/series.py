"""What the page's script draws: curves thinned and rounded, samples at chosen tokens, as JSON."""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from babygpt_exp.report.content import Report, Run

METRICS = (
    ("val/bpb", "validation bits/byte"),
    ("val/loss", "validation loss"),
    ("train/loss", "train loss"),
    ("lr", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("perf/tokens_per_s", "tokens a second"),
    ("perf/data_wait_frac", "share of time waiting for data"),
    ("perf/mfu", "model FLOPs utilisation"),
    ("perf/memory_mb", "memory, MB"),
    ("perf/stream_reconnects", "reconnects to the streamer"),
)
"""Columns of metrics.csv that can be drawn, and what the page calls them."""

MAX_POINTS = 500
"""Points of a loss curve at most: one for every other pixel of a wide chart."""
MAX_OTHER_POINTS = 150
"""Points of any other curve at most, so that 100 long runs stay below 10 MB."""
MAX_SAMPLE_BYTES = 1_000_000
"""Generated text at most, for the same reason."""
SAMPLE_ROUNDS = (24, 12, 6, 3, 2, 1)
"""How many token positions keep their samples: the first number with which the text fits."""

COLOURS = (
    "#2f7fd1",
    "#e0772a",
    "#1f9d77",
    "#d0496b",
    "#8a63cf",
    "#b08a1e",
    "#1c9fb5",
    "#c765ad",
    "#748a34",
    "#8b8d94",
)
"""Told apart on white and on black."""


def group_colours(count: int) -> list[str]:
    """A colour a group, best first; of many groups the hue says the rank, blue to red."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    hues = np.linspace(0.6, 0.0, count)
    parts = [colorsys.hls_to_rgb(hue, 0.46, 0.6) for hue in hues]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in rgb) for rgb in parts]


def group_of_runs(report: Report) -> dict[Path, int]:
    """Place of each run's group among the groups."""
    return {run.folder: at for at, group in enumerate(report.groups) for run in group.runs}


def thin(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of about `count` values: the lowest and highest of each stretch, first and last.

    Values that are not finite are left out, so a curve's minimum, maximum and ends all stay.
    """
    places = np.flatnonzero(np.isfinite(values))
    if len(places) <= count:
        return places
    stretches = np.array_split(places, (count - 2) // 2)
    lowest = [stretch[values[stretch].argmin()] for stretch in stretches]
    highest = [stretch[values[stretch].argmax()] for stretch in stretches]
    return np.unique(np.array([places[0], *lowest, *highest, places[-1]]))


def rounded(value: float, digits: int) -> float | int | None:
    """A number with as many digits as are useful; None of what is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def _column(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=np.float64, na_value=np.nan)


def num_points(num_runs: int) -> tuple[int, int]:
    """Points of a loss curve and of another at most; fewer where there are very many runs."""
    share = min(1.0, 100 / max(1, num_runs))
    return max(20, int(MAX_POINTS * share)), max(20, int(MAX_OTHER_POINTS * share))


def curves(rows: pd.DataFrame, most: tuple[int, int]) -> dict[str, Any]:
    """The curves of a run: `tokens` and `seconds`, and for each metric its values and where.

    `at` has places in `tokens` and `seconds`, and is left out where a metric has all of them.
    """
    kept: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for name, _ in METRICS:
        values = _column(rows, name)
        is_loss = "loss" in name or "bpb" in name
        places = thin(values, most[0] if is_loss else most[1])
        if len(places):
            kept[name] = places, values[places]
    used = np.unique(np.concatenate([[], *(places for places, _ in kept.values())])).astype(int)
    metrics: dict[str, Any] = {}
    for name, (places, values) in kept.items():
        digits = 5 if "loss" in name or "bpb" in name else 4
        metrics[name] = {"y": [rounded(value, digits) for value in values]}
        if len(places) < len(used):
            metrics[name]["at"] = np.searchsorted(used, places).tolist()
    tokens, seconds = _column(rows, "tokens")[used], _column(rows, "seconds")[used]
    return {
        "tokens": [rounded(value, 12) for value in tokens],
        "seconds": [rounded(value, 6) for value in seconds],
        "metrics": metrics,
    }


def is_thinned(runs: Sequence[Run]) -> bool:
    """Whether any run has more rows than are drawn of some metric."""
    return any(
        np.isfinite(_column(run.rows, name)).sum() > num_points(len(runs))[1]
        for run in runs
        for name, _ in METRICS
    )


def chosen_samples(runs: Sequence[Run]) -> tuple[list[int], list[list[dict[str, Any]]]]:
    """Token positions to look at, and each run's samples from the rounds nearest to them."""
    positions = sorted({int(sample["tokens"]) for run in runs for sample in run.samples})
    chosen: list[int] = []
    samples: list[list[dict[str, Any]]] = [[] for _ in runs]
    for count in SAMPLE_ROUNDS:
        places = np.linspace(len(positions) - 1, 0, min(count, len(positions))).round().astype(int)
        chosen = [positions[place] for place in sorted(set(places.tolist()))]
        samples = [_nearest_samples(run, chosen) for run in runs]
        if (
            len(json.dumps(samples, ensure_ascii=False).encode(errors="replace"))
            <= MAX_SAMPLE_BYTES
        ):
            break
    return chosen, samples


def _nearest_samples(run: Run, positions: Sequence[int]) -> list[dict[str, Any]]:
    rounds = sorted({int(sample["tokens"]) for sample in run.samples})
    if not rounds:
        return []
    kept = {min(rounds, key=lambda at: abs(at - position)) for position in positions}
    names = ("tokens", "kind", "prompt", "text")
    return [
        {name: sample[name] for name in names} for sample in run.samples if sample["tokens"] in kept
    ]


def page_data(report: Report) -> dict[str, Any]:
    """All that the page's script draws."""
    group_of = group_of_runs(report)
    positions, samples = chosen_samples(report.runs)
    most = num_points(len(report.runs))
    runs = [
        {
            "name": run.name,
            "group": group_of.get(run.folder),
            "status": run.status,
            "score": None if run.score is None else rounded(run.score, 6),
            "varied": [run.varied.get(key, "") for key in report.keys],
            "samples": texts,
            **curves(run.rows, most),
        }
        for run, texts in zip(report.runs, samples, strict=True)
    ]
    have = {name for run in runs for name in run["metrics"]}
    lines = {name for run in runs for name, drawn in run["metrics"].items() if len(drawn["y"]) > 1}
    # What comes first is shown first: a line, not the point of runs that were validated once.
    order = sorted(METRICS, key=lambda metric: metric[0] not in lines)
    return {
        "metrics": [{"key": key, "label": label} for key, label in order if key in have],
        "keys": report.keys,
        "groups": [
            {"name": group.name, "colour": colour}
            for group, colour in zip(report.groups, group_colours(len(report.groups)), strict=True)
        ],
        "positions": positions,
        "runs": runs,
    }


def as_script(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends or comments the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e")
