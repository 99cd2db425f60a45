"""The workspace of W&B as objects and as JSON; none of it asks anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from experiment_harness import SECONDS
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from wandb_workspaces.reports.v2.interface import (
    Config,
    LinePlot,
    ParallelCoordinatesPlot,
    ParameterImportancePlot,
    SummaryMetric,
    WeavePanelSummaryTable,
)
from wandb_workspaces.workspaces import Workspace

from babygpt_exp.dashboard import MAX_RUNS, SETTINGS, build, main
from babygpt_exp.options import CONF
from babygpt_exp.summary import first_summary
from babygpt_exp.tracking.history import COLUMNS

SUMMARY = set(first_summary(1, []))
"""Keys of summary.json, which W&B has too."""


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return build("me", "babygpt", "2026-11-24_16-20-00")


def panels(workspace: Workspace) -> Iterator[Any]:
    for section in workspace.sections:
        yield from section.panels


def of_kind(workspace: Workspace, kind: type[Any]) -> list[Any]:
    return [panel for panel in panels(workspace) if isinstance(panel, kind)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `--json` prints."""
    main([*arguments, "--json"])
    view: dict[str, Any] = json.loads(capsys.readouterr().out)
    return view


def runs_of(view: dict[str, Any]) -> dict[str, Any]:
    """Which runs a workspace shows, and in which order."""
    (runs,) = view["spec"]["section"]["runSets"]
    found: dict[str, Any] = runs
    return found


class TestPanels:
    """What a person sees."""

    @pytest.mark.parametrize(
        ("metric", "x"),
        [
            ("train/loss", "tokens"),
            ("train/loss", "seconds"),
            ("val/bpb", "tokens"),
            ("val/bpb", "seconds"),
            ("lr", "tokens"),
            ("grad_norm", "tokens"),
            ("perf/tokens_per_s", "tokens"),
            ("perf/data_wait_frac", "tokens"),
            ("perf/mfu", "tokens"),
        ],
    )
    def test_curve(self, workspace: Workspace, metric: str, x: str) -> None:
        found = [p for p in of_kind(workspace, LinePlot) if p.y == [metric] and p.x == x]
        assert len(found) == 1
        assert found[0].max_runs_to_show == MAX_RUNS

    def test_curves_are_of_metrics_that_are_logged(self, workspace: Workspace) -> None:
        named = {name for plot in of_kind(workspace, LinePlot) for name in (plot.x, *plot.y)}
        assert named <= set(COLUMNS)

    def test_samples(self, workspace: Workspace) -> None:
        (table,) = of_kind(workspace, WeavePanelSummaryTable)
        assert table.table_name == "samples"

    def test_axes_are_settings_and_the_score(self, workspace: Workspace) -> None:
        (plot,) = of_kind(workspace, ParallelCoordinatesPlot)
        *settings, score = [column.metric for column in plot.columns]
        assert settings == [Config(key) for key in SETTINGS]
        assert score == SummaryMetric("final_val_bpb")
        assert "final_val_bpb" in SUMMARY

    def test_settings_are_keys_of_the_config(self) -> None:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            composed = compose("config", ["model=nano"])
        for key in SETTINGS:
            assert OmegaConf.select(composed, key) is not None, key

    def test_importance(self, workspace: Workspace) -> None:
        (plot,) = of_kind(workspace, ParameterImportancePlot)
        assert plot.with_respect_to in SUMMARY

    def test_sections_are_open_and_have_room(self, workspace: Workspace) -> None:
        for section in workspace.sections:
            assert section.is_open
            layout = section.layout_settings
            assert layout.columns * layout.rows >= len(section.panels) > 0


class TestRuns:
    """Which runs it shows, and the JSON that W&B would get."""

    def test_best_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        view = printed(capsys)
        assert view["project"] == "babygpt"
        runs = runs_of(view)
        (key,) = runs["sort"]["keys"]
        assert key == {"key": {"section": "summary", "name": "final_val_bpb"}, "ascending": True}
        assert runs["filters"]["filters"] == []
        columns = {name.partition(":")[2] for name in runs["runFeed"]["columnOrder"]}
        assert columns - {"displayName"} <= SUMMARY

    @pytest.mark.parametrize(
        "group", ["2026-11-24_16-20-00", 'it\'s "lr" = 0.1 <2>', "\\", "\u00e9 \U0001f600"]
    )
    def test_one_sweep(self, capsys: pytest.CaptureFixture[str], group: str) -> None:
        view = printed(capsys, "--entity", "me", "--project", "mine", "--sweep", group)
        assert (view["entity"], view["project"]) == ("me", "mine")
        (condition,) = runs_of(view)["filters"]["filters"]
        assert condition["key"] == {"section": "run", "name": "group"}
        assert (condition["op"], condition["value"]) == ("=", group)

    def test_json_has_every_panel(
        self, capsys: pytest.CaptureFixture[str], workspace: Workspace
    ) -> None:
        written = printed(capsys)["spec"]["section"]["panelBankConfig"]["sections"]
        assert [section["name"] for section in written] == [s.name for s in workspace.sections]
        assert sum(len(section["panels"]) for section in written) == len(list(panels(workspace)))


class TestErrors:
    """One line on standard error."""

    @pytest.mark.parametrize(
        ("key", "code", "start"),
        [
            ({}, 2, "error: W&B needs a key: set WANDB_API_KEY or run 'wandb login'"),
            ({"WANDB_API_KEY": "abc"}, 1, "error: W&B did not take the key: "),
        ],
    )
    def test_key(
        self, environment: dict[str, str], key: dict[str, str], code: int, start: str
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "babygpt_exp.dashboard"],
            env=environment | key,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(start)
        assert "--json" in line

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_without_the_package(
        self,
        arguments: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
        assert ended(capsys, *arguments).endswith("pip install 'babygpt-exp[dashboard]'")

    def test_wrong_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--swep" in ended(capsys, "--swep", "x")


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line that wrong usage ends with."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line
