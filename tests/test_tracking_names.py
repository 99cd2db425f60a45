"""Names of runs, ids that no other has, and the links of a sweep."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from babygpt_exp.tracking.links import link_to_sweep
from babygpt_exp.tracking.names import distinct_overrides, new_run_id, run_name, slug


class TestNames:
    """Ids that W&B takes, and names that a person reads."""

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("model=baby,seed=1", "model=baby-seed=1"),
            ("2026-11-24_06-33-46-636148", "2026-11-24_06-33-46-636148"),
            ("a/b\\c#?%:", "a-b-c"),
            ("caf\u00e9", "caf"),
            ("", ""),
        ],
    )
    def test_slug(self, text: str, name: str) -> None:
        assert slug(text) == name

    def test_slug_is_never_longer_than_wandb_allows(self) -> None:
        assert len(slug("x" * 500)) <= 128

    @pytest.mark.parametrize(
        ("distinct", "number", "start"),
        [
            (["optimizer=muon", "seed=1"], 12, "12-optimizer=muon-seed=1-"),
            (["data.source=/a/b c.txt"], None, "data.source=-a-b-c.txt-"),
            ([], None, "default-"),
            ([], 0, "0-"),
            (["run.prompts=[" + "x" * 500], None, "run.prompts=-xxx"),
        ],
    )
    def test_id_says_what_the_run_is_and_is_its_own(
        self, distinct: list[str], number: int | None, start: str
    ) -> None:
        ids = {new_run_id(distinct, number) for _ in range(100)}
        assert len(ids) == 100
        for run_id in ids:
            assert run_id.startswith(start)
            assert slug(run_id) == run_id

    def test_name(self) -> None:
        assert run_name(["optimizer=muon", "seed=1"]) == "optimizer=muon,seed=1"
        assert run_name([]) == "default"
        assert run_name(["run.prompts=[a\nb]"]) == "run.prompts=[a b]"
        assert len(run_name(["x" * 500])) <= 128

    @pytest.mark.parametrize(
        ("typed", "overrides", "distinct"),
        [
            ("-m model=nano seed=1,2", "model=nano seed=2", "seed=2"),
            ("seed=range(1,3) --multirun", "seed=2", "seed=2"),
            ("-m hardware.compile=false +a.b='x' seed=1,2", "hardware.compile=False +a.b=x seed=1",
             "seed=1"),
            ("-m optimizer=muon,adamw run.prompts=[a,b]", "optimizer=adamw run.prompts=[a,b]",
             "optimizer=adamw"),
            ("-m hydra/sweeper=optuna hydra.sweeper.n_trials=9 model=nano",
             "model=nano optimizer.lr=0.017", "optimizer.lr=0.017"),
            ("-m model=nano", "model=nano", ""),
        ],
    )  # fmt: skip
    def test_what_tells_a_job_from_others(self, typed: str, overrides: str, distinct: str) -> None:
        assert distinct_overrides(overrides.split(), typed.split()) == distinct.split()


class TestLinks:
    """SWEEP/wandb has one link a job."""

    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Path:
        folder = tmp_path / "sweep"
        folder.mkdir()
        return folder

    def start(self, sweep: Path, job: int, second: int = 0) -> Path:
        """The folder of a run that a job of a sweep has started."""
        folder = sweep / str(job) / "wandb" / f"offline-run-20261124_16200{second}-{job}-x"
        folder.mkdir(parents=True)
        (folder / f"run-{job}-x.wandb").write_text(f"{job} {second}")
        link_to_sweep(folder, sweep)
        return folder

    def found(self, sweep: Path) -> list[str]:
        return sorted(log.read_text() for log in (sweep / "wandb").glob("offline-run-*/run-*"))

    def test_sweep_can_be_moved(self, sweep: Path) -> None:
        folder = self.start(sweep, 0)
        assert (sweep / "wandb" / folder.name).is_symlink()
        assert self.found(sweep.rename(sweep.with_name("moved"))) == ["0 0"]

    def test_newest_run_of_a_job_takes_the_place_of_its_others(self, sweep: Path) -> None:
        for job, second in ((1, 0), (11, 0), (1, 1), (1, 2)):
            self.start(sweep, job, second)
        assert self.found(sweep) == ["1 2", "11 0"]
        assert len(list((sweep / "1" / "wandb").iterdir())) == 3

    def test_leaves_alone_what_is_not_its_own(self, sweep: Path) -> None:
        (sweep / "wandb").mkdir()
        (sweep / "wandb" / "debug.log").write_text("")
        (sweep / "wandb" / ".offline-run-20261124_162000-1-x.unfinished").symlink_to("nowhere")
        self.start(sweep, 1)
        assert {path.name for path in (sweep / "wandb").iterdir()} == {
            "debug.log",
            "offline-run-20261124_162000-1-x",
        }

    def test_jobs_that_start_together(self, sweep: Path) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda job: self.start(sweep, job), range(64)))
        assert len(self.found(sweep)) == len(list((sweep / "wandb").iterdir())) == 64
