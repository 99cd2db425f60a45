"""Sweeps by Hydra's own launcher: each job is a run of its own, and none takes others along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from experiment_harness import (
    TINY,
    Outcome,
    read_rows,
    read_summary,
    run,
    streamers_of,
)
from wandb_harness import assert_sweep_same, read_sweep

pytestmark = pytest.mark.slow

SHORT = (*TINY, "run.max_tokens=4096", "hydra/launcher=basic")


@dataclass(frozen=True)
class Sweep:
    """A finished sweep."""

    outcome: Outcome

    @property
    def folder(self) -> Path:
        """The only folder below `multirun`."""
        (folder,) = self.outcome.cwd.glob("multirun/*/*")
        return folder

    def job(self, number: int) -> Path:
        """Folder of a job."""
        return self.folder / str(number)


def sweep(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], *arguments: str
) -> Sweep:
    cwd = tmp_path_factory.mktemp("sweep")
    return Sweep(run("-m", *SHORT, *arguments, cwd=cwd, env=environment))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Sweep:
    """Two jobs that go well."""
    return sweep(tmp_path_factory, environment, "seed=1,2")


class TestSeeds:
    """`-m seed=1,2`."""

    def test_ends_well(self, seeds: Sweep) -> None:
        assert seeds.outcome.exit_code == 0, seeds.outcome.errors
        assert "Traceback" not in seeds.outcome.errors

    def test_each_job_has_its_folder(self, seeds: Sweep) -> None:
        names = {path.name for path in seeds.folder.iterdir() if not path.name.startswith(".")}
        report = {"report.html", "summary.csv", "summary.md"}
        assert names == {"0", "1", "multirun.yaml", "wandb", *report}
        assert {path.name for path in seeds.outcome.cwd.iterdir()} == {"multirun"}

    @pytest.mark.parametrize("number", [0, 1])
    def test_each_job_is_a_whole_run(self, seeds: Sweep, number: int) -> None:
        summary = read_summary(seeds.job(number))
        assert summary["status"] == "completed"
        assert summary["seed"] == number + 1
        assert f"seed={number + 1}" in summary["overrides"]
        assert int(read_rows(seeds.job(number))[-1]["tokens"]) == 4096

    def test_jobs_differ_as_seeds_do(self, seeds: Sweep) -> None:
        one, two = (
            {row["train/loss"] for row in read_rows(seeds.job(n)) if row["train/loss"]}
            for n in (0, 1)
        )
        assert len(one) == len(two) == 4
        assert not one & two

    def test_streamers_are_gone(self, seeds: Sweep, cache: Path) -> None:
        assert seeds.outcome.exit_code == 0
        assert streamers_of(cache) == []


def test_wandb_has_what_the_files_have(seeds: Sweep, environment: dict[str, str]) -> None:
    """Two runs in one group, each with its own curve, samples, name and end."""
    assert_sweep_same(seeds.folder, read_sweep(seeds.folder, environment))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Sweep:
    """Three jobs: the second can not run (three heads), the others can."""
    return sweep(tmp_path_factory, environment, "logger=none", "model.num_heads=2,3,4")


class TestFailingJob:
    """`-m model.num_heads=2,3,4`, where 3 does not divide the width."""

    def test_exit_status_and_error(self, mixed: Sweep) -> None:
        assert mixed.outcome.exit_code == 1
        assert "Traceback" not in mixed.outcome.errors
        errors = [e for e in mixed.outcome.errors.splitlines() if e.startswith("error: ")]
        assert len(errors) == 1, mixed.outcome.errors
        assert "model.num_heads=3 does not divide model.width=64" in errors[0]

    @pytest.mark.parametrize("number", [0, 2])
    def test_others_complete(self, mixed: Sweep, number: int) -> None:
        assert read_summary(mixed.job(number))["status"] == "completed"
        assert int(read_rows(mixed.job(number))[-1]["tokens"]) == 4096

    def test_failing_job_leaves_no_metrics(self, mixed: Sweep) -> None:
        assert not (mixed.job(1) / "metrics.csv").exists()
