"""The command line of the doctor: what the machine can do, what the config needs, and a verdict.

Exit status: 0 the run can run here, 1 it can not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from babygpt_exp.command import errors_in_a_line, importing_torch
from streamer.cli import Parser

if TYPE_CHECKING:
    from babygpt_exp.config import Config
    from babygpt_exp.doctor.verdict import Verdict

EXAMPLES = (
    "python -m babygpt_exp.doctor",
    "python -m babygpt_exp.doctor model=baby precision=bf16-mixed run.max_tokens=1e9",
    "python -m babygpt_exp.doctor --quick --json model=gpt2",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-doctor` and of `python -m babygpt_exp.doctor`."""
    arguments = read_arguments(argv)
    with errors_in_a_line():
        with importing_torch():
            from babygpt_exp.compose import compose_config

        with redirect_stdout(sys.stderr):
            config = compose_config(arguments.overrides)
            machine = examine(config, measured=not arguments.quick)
            needs, found = judge(config, arguments.overrides, machine, not arguments.quick)
        show(machine, needs, found, as_json=arguments.json)
        sys.exit(0 if all(verdict.fits for verdict in found) else 1)


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides; ends the process with 2 where they are wrong."""
    parser = build_parser()
    arguments = parser.parse_intermixed_args(argv)
    for override in arguments.overrides:
        if "=" not in override and not override.startswith("~"):
            parser.error(f"{override} is no override: write key=value or group=option")
    return arguments


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.doctor`."""
    parser = Parser(
        prog="python -m babygpt_exp.doctor",
        description="Say what this machine can do, what a run with these overrides would need of\n"
        "it, and whether that fits. Measures products, a compilation and some steps on random\n"
        "tokens: a minute on two cores, more where the run would be compiled. Trains nothing,\n"
        "asks no network. Exit status 0: it can run here, 1: it can not, 2: wrong usage.",
        examples=EXAMPLES,
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="group=option or key=value, as in training"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure nothing: memory and time are estimates (default: measured where it fits)",
    )
    return parser


def examine(config: Config, *, measured: bool) -> dict[str, Any]:
    """The machine, with what a run of this config would use of it."""
    from babygpt_exp.doctor.machine import machine_facts, wandb_facts
    from babygpt_exp.doctor.measure import compiler_facts, precision_facts
    from babygpt_exp.tracking.config import WandbConfig

    if measured:
        say("measuring products and a compilation ...")
    machine = machine_facts()
    machine["precisions"] = precision_facts(config.hardware, measured=measured)
    machine["compiler"] = compiler_facts(measured=measured)
    mode = config.logger.mode if isinstance(config.logger, WandbConfig) else "none"
    machine["wandb"] = wandb_facts() | {"mode": mode}
    return machine


def judge(
    config: Config, overrides: list[str], machine: dict[str, Any], measured: bool
) -> tuple[dict[str, Any] | None, list[Verdict]]:
    """What the run needs, None where it is refused; and the verdicts."""
    from babygpt_exp.doctor.attempt import attempt
    from babygpt_exp.doctor.needs import disk_needs, memory_needs, model_needs, time_needs
    from babygpt_exp.doctor.plan import make_plan
    from babygpt_exp.doctor.verdict import Verdict, verdicts
    from babygpt_exp.errors import ConfigError, one_line

    try:
        plan = make_plan(config)
    except ConfigError as error:
        return None, [Verdict("config", False, one_line(error))]
    trial, why_not = None, "nothing was measured"
    if measured:
        say("measuring steps, compiled ..." if plan.compiled else "measuring steps ...")
        estimate = memory_needs(config, plan, None)["total"]
        trial, why = attempt(overrides, plan, estimate, machine["memory"]["available_mb"])
        why_not = why or ""
    gflops = machine["precisions"][config.precision.name]["gflops"]
    needs = {
        "model": model_needs(config, plan),
        "memory_mb": memory_needs(config, plan, trial),
        "disk_mb": disk_needs(config, plan),
        "seconds": time_needs(config, plan, trial, None if gflops is None else gflops * 1e9),
    }
    if trial is None:
        needs["seconds"]["how"] += f"; {why_not}"
    return needs, verdicts(config, plan, machine, needs)


def say(text: str) -> None:
    """A line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def show(
    machine: dict[str, Any], needs: dict[str, Any] | None, found: list[Verdict], *, as_json: bool
) -> None:
    """The report on standard output."""
    can_run = all(verdict.fits for verdict in found)
    if as_json:
        lines = [vars(verdict) for verdict in found]
        report = {"machine": machine, "needs": needs, "can_run": can_run, "verdicts": lines}
        print(json.dumps(report, indent=2))
        return
    from babygpt_exp.doctor.words import machine_rows, needs_rows, verdict_rows

    show_rows("this machine", machine_rows(machine))
    if needs is not None:
        show_rows("this run", needs_rows(needs))
    show_rows("verdict: it can run" if can_run else "verdict: it can NOT run", verdict_rows(found))


def show_rows(title: str, rows: Iterator[tuple[str, str]]) -> None:
    """A title, and names and lines below it."""
    print(title)
    for name, line in rows:
        print(f"  {name:<14} {line}")
