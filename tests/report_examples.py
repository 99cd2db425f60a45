"""Made-up reports: a sweep with seeds and a broken job, one run, and what is odd."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from babygpt_exp.report.content import Difference, Group, Importance, Report, Run, Status
from babygpt_exp.tracking.history import COLUMNS

NAN = float("nan")
SCRIPT = "<script>window.hacked = true</script>"
PROMPTS = ("This movie is the most", f"{SCRIPT} & <b>Steven</b>")
TEXT = (
    "the of a little house and she said that it was not there because old people in town "
    "had never seen such rain before they went home to write letters about music"
)
GAINS = {"adamw": 0.0, "muon": 0.11, "nano": 0.0, "baby": 0.34}


def rows(end: float, num_rows: int, seed: int = 1, last: float = 1.0) -> pd.DataFrame:
    """Rows as a run logs them; validation every tenth row, the last one included."""
    noise = np.random.default_rng(seed)
    at = np.arange(1, num_rows + 1)
    done = at / max(1, num_rows) * last
    bpb = end + (2.6 - end) * np.exp(-5 * done) + 1.2 * np.exp(-40 * done)
    table = pd.DataFrame(NAN, index=range(num_rows), columns=list(COLUMNS))
    table["step"], table["tokens"] = at * 8, np.round(done * 16_384_000)
    table["seconds"] = done * 790 + noise.random(num_rows)
    table["train/loss"] = bpb * 2.9 + noise.normal(0, 0.05, num_rows)
    table["lr"] = 0.02 * np.minimum(np.minimum(1.0, 10 * done), 2.5 * (1.001 - done))
    table["grad_norm"] = 0.5 + noise.random(num_rows)
    table["perf/tokens_per_s"] = 20_800 + noise.normal(0, 300, num_rows)
    table["perf/data_wait_frac"] = np.abs(noise.normal(0, 0.004, num_rows))
    table["perf/mfu"] = 0.41 + noise.normal(0, 0.01, num_rows)
    validated = (at % 10 == 0) | (at == num_rows)
    table["val/bpb"] = np.where(validated, bpb, NAN)
    table["val/loss"] = np.where(validated, bpb * 2.88, NAN)
    return table


def samples(seed: int, tokens: tuple[int, ...] = (4_096_000, 8_192_000, 16_384_000)) -> list[Any]:
    """A round of samples at each of these positions."""
    words, known = random.Random(seed), TEXT.split()

    def text(count: int) -> str:
        return " " + " ".join(words.choice(known) for _ in range(count)) + "."

    return [
        {"step": at // 2048, "tokens": at, "kind": kind, "prompt": prompt, "text": text(24)}
        for at in tokens
        for kind, prompt in (
            *(("manual", prompt) for prompt in PROMPTS),
            ("auto", "In the spring of that year the river rose and"),
        )
    ]


def run(varied: dict[str, str], number: int, status: Status = "completed", **changes: Any) -> Run:
    """A run that ended near what its values would give."""
    seed = int(varied.get("seed", "1"))
    end = 1.62 - sum(GAINS.get(value, 0.0) for value in varied.values())
    end += random.Random(f"{varied}").gauss(0, 0.012)
    last = 1.0 if status == "completed" else 0.45
    summary: dict[str, Any] = {
        "status": status,
        "tokens": round(16_384_000 * last),
        "seconds": 790.0 * last + number,
        "final_val_bpb": end if status == "completed" else None,
        "best_val_bpb": end - 0.002 if status == "completed" else end + 0.13,
        "tokens_per_s": 20_800.0 + 31 * number,
        "seed": seed,
    }
    values: dict[str, Any] = {
        "folder": Path("sweep") / str(number),
        "number": number,
        "name": " ".join(f"{key}={value}" for key, value in varied.items()),
        "status": status,
        "error": None if status == "completed" else "RuntimeError: loss is not finite at step 912",
        "seed": seed,
        "varied": varied,
        "summary": summary,
        "rows": rows(end, 100, number, last),
        "samples": samples(number),
    }
    return Run(**{**values, **changes})


def report(runs: list[Run], title: str = "2026-11-24/15-20-31") -> Report:
    """The runs, best first, in groups by seed; what is said of them is made up from means."""
    keys = list(dict.fromkeys(key for run in runs for key in run.varied))
    order = {"completed": 0, "running": 1, "interrupted": 2, "failed": 3}
    runs = sorted(runs, key=lambda one: (order[one.status], one.score or 9.0))
    names: dict[str, list[Run]] = {}
    for one in runs:
        plain = {key: value for key, value in one.varied.items() if key != "seed"}
        names.setdefault(" ".join(f"{k}={v}" for k, v in plain.items()) or "all runs", []).append(
            one
        )
    groups = [group(name, members) for name, members in names.items()] if keys else []
    groups.sort(key=lambda one: math.inf if one.mean is None else one.mean)
    return Report(title, Path("sweep"), keys, runs, groups, differences(groups), importances(keys))


def group(name: str, members: list[Run]) -> Group:
    """A group with its mean and standard error."""
    scores = [one.score for one in members if one.status == "completed" and one.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    error = None
    if mean is not None and len(scores) > 1:
        squares = sum((score - mean) ** 2 for score in scores)
        error = math.sqrt(squares / (len(scores) - 1) / len(scores))
    varied = {key: value for key, value in members[0].varied.items() if key != "seed"}
    return Group(name, varied, sorted(members, key=lambda one: one.seed or 0), mean, error)


def differences(groups: list[Group]) -> list[Difference]:
    """Of the best group to every other."""
    known = [one for one in groups if one.mean is not None]
    return [
        Difference(
            known[0].name,
            other.name,
            3,
            gap := (other.mean or 0) - (known[0].mean or 0),
            0.021,
            f"{known[0].name} beats {other.name} by {gap:.3f} +- 0.021 bits/byte over 3 seeds",
        )
        for other in known[1:]
    ]


def importances(keys: list[str]) -> list[Importance]:
    """The first key matters most."""
    found = [key for key in keys if key != "seed"]
    return [Importance(key, 0.72 / 4**at, 0.34 / 3**at) for at, key in enumerate(found)]


def sweep() -> Report:
    """2 x 2 x 3 jobs, one of them failed and one interrupted."""
    broken: dict[int, Status] = {2: "failed", 7: "interrupted"}
    values = itertools.product(("nano", "baby"), ("muon", "adamw"), ("1", "2", "3"))
    runs = [
        run({"model": model, "optimizer": optimizer, "seed": seed}, at, broken.get(at, "completed"))
        for at, (model, optimizer, seed) in enumerate(values)
    ]
    return report(runs)


def single() -> Report:
    """A run by itself."""
    one = run({}, 4, name="2026-11-24/16-02-11", rows=rows(1.21, 400))
    summary = {
        **one.summary,
        "steps": 8000,
        "parameters": 25_170_944,
        "tokens_per_parameter": 0.65,
        "mfu": 0.412,
        "final_val_loss": 3.4871,
        "final_train_loss": 3.4422,
        "git_commit": "1bed653d6f0c4d4f9d4f0b8f3f0a34a1c1d2e3f4+",
        "versions": {"python": "3.11.2", "torch": "2.9.1", "lightning": "2.6.6"},
        "overrides": ["model=baby", "optimizer=muon", "run.max_tokens=16_384_000"],
    }
    values = {**vars(one), "summary": summary}
    return Report("2026-11-24/16-02-11", Path("outputs/x"), [], [Run(**values)], [], [], [])


def large(num_runs: int, num_rows: int) -> Report:
    """Many long runs, no two alike, with all that can be measured in each row."""
    runs = []
    for at in range(num_runs):
        table = rows(1.2 + at / 200, num_rows, at)
        table["val/bpb"] = table["train/loss"] / 2.9
        table["val/loss"] = table["train/loss"] + 0.01
        table["perf/memory_mb"] = 5210.0
        varied = {"optimizer.lr": f"{0.001 * 1.05**at:.5f}", "model.width": str(128 + at % 4 * 64)}
        runs.append(run(varied, at, rows=table))
    return report(runs, f"{num_runs} runs of {num_rows} rows")


def none() -> Report:
    """Nothing has started."""
    return report([])


def silent() -> Report:
    """A run that failed before it logged anything."""
    bare: dict[str, Any] = {"rows": rows(1.0, 0), "samples": [], "summary": {}, "seed": None}
    return report([run({}, 0, "failed", name="x", **bare)])


def unfinished() -> Report:
    """Two runs over two seeds of which none is completed."""
    return report([run({"seed": "1"}, 0, "failed", error=SCRIPT), run({"seed": "2"}, 1, "running")])


def odd() -> Report:
    """Long names, other scripts, values that are no numbers, and runs without rows."""
    long = "data.source=" + "/a/very/long/path/to/somewhere" * 8
    holes = rows(1.3, 40)
    holes.loc[3:9, ["val/bpb", "train/loss"]] = NAN
    holes.loc[20, "train/loss"] = math.inf
    bare: dict[str, Any] = {"rows": rows(1.0, 0), "samples": [], "summary": {}, "seed": None}
    texts = ("", "\u4f60\u597d", "\U0001f600", SCRIPT)
    runs = [
        *(run({"prompt": text, "seed": "1"}, at) for at, text in enumerate(texts)),
        run({"prompt": long, "seed": "1"}, 4, name=long, rows=holes),
        run({"prompt": long, "seed": "2"}, 5, name=f"{long} seed=2", rows=holes[:1]),
        run({"prompt": "a", "seed": "1"}, 6, **bare),
        run({"prompt": "b", "seed": "1"}, 7, "failed", error=long * 3, **bare),
    ]
    return report(runs, f"\u00fcber {SCRIPT} {long}")
