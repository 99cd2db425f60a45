"""report.html: one file that shows a Report in any browser and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import math
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from babygpt_exp.curve import short
from babygpt_exp.report.content import Group, Report, Run
from babygpt_exp.report.series import (
    as_script,
    group_colours,
    group_of_runs,
    is_thinned,
    num_points,
    page_data,
)

TEMPLATE = Path(__file__).parent / "template"
SCRIPTS = ("page.js", "curves.js", "table.js", "parallel.js", "samples.js", "start.js")
"""Files of the page's script, in the order in which they are joined."""
NO_COLOUR = "#8b8d94"
DASH = "\u2013"


def render(report: Report) -> str:
    """The page as HTML; the same report gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bits": bits,
        "amount": amount,
        "duration": duration,
        "clipped": clipped,
        "plus_minus": lambda text: text.replace("+-", "\u00b1"),
    }
    scripts = [plotly_script(), page_script()]
    return environment.get_template("page.html.j2").render(
        report=report,
        facts=facts(report),
        single=report.runs[0] if len(report.runs) == 1 else None,
        summary_facts=summary_facts(report.runs[0]) if len(report.runs) == 1 else [],
        table=[table_row(report, at) for at in range(len(report.runs))],
        groups=group_rows(report),
        all_completed=all(run.status == "completed" for run in report.runs),
        broken=[run for run in report.runs if run.status in ("failed", "interrupted")],
        has_samples=any(run.samples for run in report.runs),
        has_parallel=has_parallel(report),
        points=num_points(len(report.runs)) if is_thinned(report.runs) else None,
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),
        data=Markup(as_script(page_data(report))),
        scripts=[Markup(script) for script in scripts],
        script_hashes=Markup(" ".join(f"'{source_hash(script)}'" for script in scripts)),
    )


def plotly_script() -> str:
    """plotly.js from the installed package, which is slow to import and so is not."""
    package = importlib.metadata.distribution("plotly")
    path = Path(str(package.locate_file("plotly/package_data/plotly.min.js")))
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")


def page_script() -> str:
    """The page's own script."""
    parts = "\n".join((TEMPLATE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def source_hash(script: str) -> str:
    """What a Content-Security-Policy calls an inline script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def known(value: Any) -> float | int | None:
    """A number that can be shown and sorted; None of anything else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def bits(score: float | None) -> str:
    """A score for a table; a dash of none."""
    return DASH if known(score) is None else f"{score:.4f}"


def amount(number: float | None) -> str:
    """1200000 as 1.2M; a dash of none."""
    return DASH if number is None else short(number)


def clipped(text: str, most: int = 44) -> str:
    """A long text without its middle: values often differ at their end."""
    end = round(0.6 * (most - 1))
    return text if len(text) <= most else f"{text[: most - 1 - end]}\u2026{text[-end:]}"


def duration(seconds: float | None) -> str:
    """7384.2 as 2 h 03 min; a dash of none."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def facts(report: Report) -> list[str]:
    """One line: how the runs ended, the best one, and the budget."""
    runs, count = report.runs, len(report.runs)
    said = []
    if count != 1:
        ended = Counter[str](run.status for run in runs)
        order = ("completed", "running", "interrupted", "failed")
        parts = ", ".join(f"{ended[status]} {status}" for status in order if ended[status])
        alike = f", all {runs[0].status}" if len(ended) == 1 else f": {parts}"
        said.append(f"{count} runs{alike if runs else ''}")
    else:
        said.append(runs[0].status)
    best = next(
        (run for run in runs if run.status == "completed" and known(run.score) is not None), None
    )
    if best is None:
        said.append("no run is completed yet" if count != 1 else "no final score")
    else:
        name = f"best: {clipped(best.name, 90)} with " if count != 1 else ""
        said.append(f"{name}{bits(best.score)} bits/byte")
    done = [run for run in runs if run.status == "completed"] or runs
    tokens = [run.summary["tokens"] for run in done if run.summary.get("tokens")]
    if tokens:
        least, most = short(min(tokens)), short(max(tokens))
        budget = most if least == most else f"{least} to {most}"
        said.append(f"{budget} tokens{' a run' * (count > 1)}")
    seconds = sum(run.summary.get("seconds") or 0.0 for run in runs)
    if seconds:
        said.append(f"{duration(seconds)} of training")
    return said


def summary_facts(run: Run) -> list[tuple[str, str]]:
    """What summary.json says of one run, as name and value."""
    summary = run.summary
    known: list[tuple[str, str, Any]] = [
        ("final_val_bpb", "final bits/byte", bits),
        ("best_val_bpb", "best bits/byte", bits),
        ("final_val_loss", "final validation loss", bits),
        ("final_train_loss", "final train loss", bits),
        ("parameters", "parameters", short),
        ("tokens", "tokens", short),
        ("tokens_per_parameter", "tokens a parameter", "{:.3g}".format),
        ("steps", "steps", "{:,}".format),
        ("seconds", "time", duration),
        ("tokens_per_s", "tokens a second", "{:,.0f}".format),
        ("mfu", "model FLOPs utilisation", "{:.1%}".format),
        ("seed", "seed", str),
        ("git_commit", "commit", lambda commit: commit[:10] + "+" * commit.endswith("+")),
        ("overrides", "overrides", " ".join),
        ("versions", "versions", lambda of: ", ".join(f"{k} {v}" for k, v in of.items())),
    ]
    given = [(name, write, summary.get(key)) for key, name, write in known]
    return [(name, write(value)) for name, write, value in given if value not in (None, [], {})]


def table_row(report: Report, at: int) -> dict[str, Any]:
    """A run's row of the table."""
    run = report.runs[at]
    group = group_of_runs(report).get(run.folder)
    return {
        "run": run,
        "score": known(run.score),
        "colour": NO_COLOUR if group is None else group_colours(len(report.groups))[group],
        "values": [run.varied.get(key, "") for key in report.keys] or [run.name],
        "best": known(run.summary.get("best_val_bpb")),
        "tokens": known(run.summary.get("tokens")),
        "seconds": known(run.summary.get("seconds")),
        "tokens_per_s": known(run.summary.get("tokens_per_s")),
    }


def group_rows(report: Report) -> list[dict[str, Any]]:
    """Mean and error of each group, and where a picture 100 wide has them; none without seeds."""
    if all(len(group.runs) < 2 for group in report.groups) or len(report.runs) < 2:
        return []
    scores = [score for run in report.runs if (score := known(run.score)) is not None]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    span = (high - low) or 1.0
    colours = group_colours(len(report.groups))

    def place(score: float) -> float:
        return round(4 + 92 * min(1.0, max(0.0, (score - low) / span)), 2)

    def row(group: Group, colour: str) -> dict[str, Any]:
        done = [
            score
            for run in group.runs
            if run.status == "completed" and (score := known(run.score)) is not None
        ]
        mean, error = group.mean, group.error or 0.0
        band = None
        if mean is not None:
            start, end = place(mean - error), place(mean + error)
            band = start, round(max(0.2, end - start), 2)
        return {
            "group": group,
            "colour": colour,
            "num_done": len(done),
            "dots": [place(score) for score in done],
            "mean": None if mean is None else place(mean),
            "band": band,
        }

    return [row(group, colour) for group, colour in zip(report.groups, colours, strict=True)]


def has_parallel(report: Report) -> bool:
    """Whether parallel coordinates say more than the table: two keys, or four runs, with scores."""
    scored = [run for run in report.runs if known(run.score) is not None]
    keys = [key for key in report.keys if len({run.varied.get(key) for run in scored}) > 1]
    return bool(keys) and (len(keys) >= 2 + ("seed" in keys) or len(scored) >= 4)
