"""`python -m babygpt_exp.dashboard`: a workspace of W&B with what this package logs.

Loss over tokens and over time, validation, learning rate, speed, samples, and which settings
made the difference. The tests see the panels as objects and as JSON. Saving needs an account
and is not tested: it is one call of the package wandb-workspaces, an extra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from babygpt_exp.command import errors_in_a_line
from babygpt_exp.errors import ConfigError, UserError, one_line
from streamer.cli import Parser

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import LinePlot, PanelTypes
    from wandb_workspaces.workspaces import Section, Workspace

SCORE = "final_val_bpb"
"""Key of summary.json that ranks runs: validation bits a byte at the end, lower is better."""

SETTINGS = (
    "model.num_layers",
    "model.width",
    "arch.name",
    "optimizer.name",
    "optimizer.lr",
    "schedule.name",
    "run.batch_tokens",
    "run.max_tokens",
    "seed",
)
"""Keys of the config that have an axis in the parallel coordinates."""

TITLES = {
    "train/loss": "training loss, nats a token",
    "val/bpb": "validation, bits a byte",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "perf/tokens_per_s": "tokens a second",
    "perf/data_wait_frac": "share of the time spent waiting for data",
    "perf/mfu": "share of the machine's peak (MFU)",
    "perf/memory_mb": "memory, MB",
    "perf/stream_reconnects": "reconnections to the streamer",
}
"""What a panel says of a metric."""

MAX_RUNS = 100
"""Curves in a panel; W&B's own 10 would hide most of a sweep."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `babygpt-dashboard` and of `python -m babygpt_exp.dashboard`."""
    arguments = build_parser().parse_args(argv)
    with errors_in_a_line():
        check_package()
        if arguments.json:
            view = build(arguments.entity or "", arguments.project, arguments.sweep)
            print(view._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2))
        else:
            print(save(arguments.entity, arguments.project, arguments.sweep))


def build_parser() -> Parser:
    """The options of `python -m babygpt_exp.dashboard`."""
    parser = Parser(
        prog="python -m babygpt_exp.dashboard",
        description="Make a workspace of Weights & Biases with the curves of a sweep, or of a\n"
        "whole project, and print its address. Needs an account, but for --json.",
        examples=(
            "python -m babygpt_exp.dashboard --project babygpt",
            "python -m babygpt_exp.dashboard --entity my_team --sweep DATE_TIME",
            "python -m babygpt_exp.dashboard --json",
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--entity", help="user or team that has the project (default: yours)")
    parser.add_argument("--project", default="babygpt", help="project (default: babygpt)")
    parser.add_argument(
        "--sweep",
        metavar="GROUP",
        help="show only the runs of this sweep: its name, as `sweep` in a summary.json",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the workspace instead; needs no account"
    )
    return parser


def check_package() -> None:
    """Refuse to go on without the package that writes workspaces."""
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the dashboard needs the package wandb-workspaces: pip install 'babygpt-exp[dashboard]'"
        ) from error


def save(entity: str | None, project: str, sweep: str | None) -> str:
    """Save the workspace at W&B; its address."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    from babygpt_exp.tracking.account import check_key, quiet

    check_key(otherwise="or print the workspace with --json")
    try:
        with quiet():
            owner = entity or wandb.Api().default_entity
            if owner is None:
                raise ConfigError("this W&B key has no entity of its own; say --entity")
            view = build(owner, project, sweep)
            view.save()  # type: ignore[no-untyped-call]
            return str(view.url)
    except (wandb.errors.Error, WandbApiFailedError, ValueError) as error:
        raise UserError(f"W&B did not save the workspace: {one_line(error)}") from error


def build(entity: str, project: str, sweep: str | None) -> Workspace:
    """The workspace: best run first, tokens as the x axis."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=view_name(sweep),
        sections=sections(),
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f"Metric('Group') == {quoted(sweep)}" if sweep else "",
            order=[ws.Ordering(ws.Summary(SCORE), ascending=True)],
            pinned_columns=[
                "run:displayName",
                *(f"summary:{name}" for name in (SCORE, "best_val_bpb", "tokens_per_s", "status")),
            ],
        ),
    )


def view_name(sweep: str | None) -> str:
    """The workspace's name; wandb-workspaces takes = and others of Unicode's symbols for emojis."""
    return "babygpt" if sweep is None else "sweep " + re.sub(r"[^\w .,:;()-]+", "-", sweep)


def quoted(text: str) -> str:
    """Text for a filter, in which wandb-workspaces would rewrite operators within quotes too."""
    return repr(text).translate({ord(sign): f"\\x{ord(sign):02x}" for sign in "=<>"})


def sections() -> list[Section]:
    """The parts of the workspace, from top to bottom."""
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    def section(name: str, columns: int, panels: list[PanelTypes]) -> Section:
        layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
        return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)

    losses = ("val/bpb", "train/loss")
    speeds = [name for name in TITLES if name.startswith("perf/")]
    return [
        section("Loss", 2, [curve(name, x) for x in ("tokens", "seconds") for name in losses]),
        section("Optimizer", 2, [curve("lr"), curve("grad_norm")]),
        section("Speed", 3, [curve(name) for name in speeds]),
        section("Samples", 1, [wr.WeavePanelSummaryTable(table_name="samples")]),
        section(
            "What made the difference",
            1,
            [
                wr.ParallelCoordinatesPlot(
                    title=f"settings and {SCORE}",
                    columns=[
                        *(wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in SETTINGS),
                        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(SCORE)),
                    ],
                ),
                wr.ParameterImportancePlot(with_respect_to=SCORE),
            ],
        ),
    ]


def curve(metric: str, x: str = "tokens") -> LinePlot:
    """A metric of every run."""
    import wandb_workspaces.reports.v2.interface as wr

    return wr.LinePlot(
        title=f"{TITLES[metric]}, over {x}", x=x, y=[metric], max_runs_to_show=MAX_RUNS
    )


if __name__ == "__main__":
    main()
