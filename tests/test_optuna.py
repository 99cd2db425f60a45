"""`hydra/sweeper=optuna`: what is searched, what comes of it, and what a second start finds.

The jobs are a function of a few numbers. Most tests leave Hydra out, which takes longer to compose
a job than Optuna to choose one.
"""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from experiment_harness import REPOSITORY, SECONDS, Outcome
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.pruner import PrunedValue
from babygpt_exp.search.sampler import Sampler
from babygpt_exp.search.search import GIVE_UP, Search
from babygpt_exp.search.space import Space
from babygpt_exp.search.trials import FILE, Trial, open_trials

Task = Callable[[dict[str, Any]], Any]
"""A job: what it returns for the values that it is given."""

SPACE = ("x=interval(-10,10)", "kind=a,b")
SAMPLER = Sampler("tpe", seed=1, num_startup_trials=5, direction="minimize")


def parabola(values: dict[str, Any]) -> float:
    """Lowest at x=3 and kind=b."""
    return float((values["x"] - 3) ** 2 + (values["kind"] == "a"))


def space(*words: str) -> Space:
    """The space of some overrides."""
    return Space(OverridesParser.create().parse_overrides(list(words)))


def launcher(task: Task, batches: list[int]) -> Callable[..., list[JobReturn]]:
    """Runs jobs as Hydra's launcher does; notes how many it was given together."""

    def run(overrides: Sequence[str]) -> JobReturn:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        try:
            result.return_value = task({word.key_or_group: word.value() for word in parsed})
        except Exception as error:
            result.status, result.return_value = JobStatus.FAILED, error
        return result

    def launch(jobs: list[list[str]], number: int) -> list[JobReturn]:
        assert number == sum(batches)
        batches.append(len(jobs))
        return [run(overrides) for overrides in jobs]

    return launch


class Folder:
    """A sweep's folder, and searches in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[int] = []

    def search(
        self,
        task: Task,
        count: int,
        *,
        overrides: Sequence[str] = SPACE,
        batch: int = 1,
        sampler: Sampler = SAMPLER,
    ) -> list[Trial]:
        """Run a sweep to its end; its trials."""
        self.batches = []
        searched = space(*overrides)
        trials = open_trials(self.path, sampler.direction, searched.typed)
        Search(searched, sampler, trials, count, batch).run(launcher(task, self.batches))
        return self.trials

    @property
    def content(self) -> dict[str, Any]:
        """optimization_results.yaml."""
        content: dict[str, Any] = yaml.safe_load((self.path / FILE).read_text())
        return content

    @property
    def trials(self) -> list[Trial]:
        """The trials that it has."""
        return [Trial(**trial) for trial in self.content["trials"]]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A new one."""
    return Folder(tmp_path)


def proposals(count: int, words: str, name: str = "tpe", seed: int = 1) -> list[str]:
    """What is tried for an override when all is equally good."""
    sampler, trials = Sampler(name, seed, 5, "minimize"), list[Trial]()
    for job in range(count):
        params = sampler.propose(space(words), trials)
        assert params is not None
        trials.append(Trial(job, params, "complete", 1.0))
    return [word for trial in trials for word in trial.params.values()]


class TestSpace:
    """Overrides as typed."""

    @pytest.mark.parametrize(
        ("typed", "words"),
        [
            ("n=1,2,3", ["1", "2", "3"]),
            ("n=null,true,1.5", ["null", "True", "1.5"]),
            ("n='a b','c,d'", ["'a b'", "'c,d'"]),
            ("n=[1,2],[3]", ["[1,2]", "[3]"]),
            ("n=1,1,2", ["1", "2"]),
            ("n=shuffle(1,2,3)", ["1", "2", "3"]),
            ("n=range(1,8,3)", ["1", "4", "7"]),
            ("n=range(4)", ["0", "1", "2", "3"]),
            ("n=range(7,1,-3)", ["4", "7"]),
            ("n=range(0,0.5,0.1)", ["0.0", "0.1", "0.2", "0.3", "0.4"]),
            ("n=tag(log,range(1,5))", ["1", "2", "3", "4"]),
            ("n=int(interval(1,3))", ["1", "2", "3"]),
            ("n=interval(1,3)", None),
        ],
    )
    def test_values_of(self, typed: str, words: list[str] | None) -> None:
        (dimension,) = space(typed).dimensions.values()
        assert dimension.words() == words

    @pytest.mark.parametrize(
        ("typed", "error"),
        [
            ("n=1", "has nothing to search"),
            ("n=tag(linear,interval(1,2))", "the only tag is log, not linear"),
            ("n=tag(log,choice(1,2))", "tag log is for interval(...) and range(...)"),
            ("n=tag(log,interval(0,1))", "with tag log all values must be above 0"),
            ("n=tag(log,range(1,9,2))", "a range with tag log has no step"),
            ("n=interval(2,1)", "has no values: 2 is above 1"),
            ("n=range(2,1)", "has no values"),
        ],
    )
    def test_refuses_in_a_line(self, typed: str, error: str) -> None:
        with pytest.raises(ConfigError) as raised:
            space(typed)
        assert error in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_job_has_all_overrides_in_the_order_typed(self) -> None:
        typed = space("n=1,2", "+a.b='x y'", "~c", "kind@d=e,f")
        assert typed.job({"n": "2", "kind@d": "e"}) == ["n=2", "+a.b='x y'", "~c", "kind@d=e"]

    def test_the_last_of_two_overrides_counts(self) -> None:
        assert space("n=1,2", "kind=a,b", "n=3").dimensions.keys() == {"kind"}


class TestSampler:
    """What is tried."""

    def test_log_interval_is_even_over_its_decades(self) -> None:
        tried = [
            float(word) for word in proposals(60, "n=tag(log,interval(0.001,1))", name="random")
        ]
        assert all(0.001 <= value <= 1 for value in tried)
        for decade in (-3, -2, -1):
            assert sum(decade <= math.log10(value) < decade + 1 for value in tried) >= 10

    def test_numbers_are_short(self) -> None:
        for word in proposals(10, "n=interval(0.001,0.1)"):
            assert len(word) <= 11

    @pytest.mark.parametrize("name", ["tpe", "random"])
    def test_nothing_is_tried_twice(self, name: str) -> None:
        assert sorted(proposals(8, "n=range(8)", name=name)) == [str(n) for n in range(8)]

    def test_the_next_follows_from_seed_and_trials(self) -> None:
        assert proposals(12, "n=interval(0,1)") == proposals(12, "n=interval(0,1)")
        assert proposals(2, "n=interval(0,1)") != proposals(2, "n=interval(0,1)", seed=2)

    def test_log_interval_of_one_value(self) -> None:
        assert proposals(1, "n=tag(log,interval(2,2))") == ["2.0"]


class TestSearch:
    """From the first job to the last."""

    def test_finds_the_lowest(self, folder: Folder) -> None:
        trials = folder.search(parabola, 30)
        content = folder.content
        assert content["name"] == "optuna"
        assert content["best_params"]["kind"] == "b"
        assert content["best_params"]["x"] == pytest.approx(3, abs=1)
        assert content["best_value"] == min(trial.value or 0 for trial in trials)
        assert trials[content["best_job"]].value == content["best_value"]

    def test_finds_the_highest(self, folder: Folder) -> None:
        folder.search(parabola, 20, sampler=Sampler("tpe", 1, 5, "maximize"))
        assert folder.content["best_params"]["x"] == pytest.approx(-10, abs=1)

    def test_batches(self, folder: Folder) -> None:
        trials = folder.search(parabola, 8, batch=3)
        assert folder.batches == [3, 3, 2]
        assert len({trial.params["x"] for trial in trials}) == 8

    def test_ends_when_all_has_been_tried(
        self, folder: Folder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trials = folder.search(parabola, 10, overrides=("x=1,2", "kind=a,b"), batch=3)
        assert len({tuple(trial.params.items()) for trial in trials}) == 4
        assert folder.batches == [3, 1]
        assert "all 4 combinations have been tried" in capsys.readouterr().out

    def test_says_what_was_best(self, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        folder.search(lambda values: values["x"], 3, overrides=("x=1,2,3", "kind='a b'"))
        *_, best, overrides = capsys.readouterr().out.splitlines()
        assert shlex.split(overrides) == ["x=1", "kind='a b'"]
        assert best == f"best is job {folder.content['best_job']} with 1:"
        assert folder.content["best_params"] == {"x": 1}


class TestTrouble:
    """Jobs that fail, that are pruned, that return no number."""

    def test_the_search_goes_on_and_fails_at_its_end(self, folder: Folder) -> None:
        def task(values: dict[str, Any]) -> float:
            if values["x"] < 0:
                raise UserError("too low")
            return parabola(values)

        with pytest.raises(UserError, match="too low"):
            folder.search(task, 30)
        trials = folder.trials
        failed = [trial.job for trial in trials if trial.state == "failed"]
        assert len(trials) == 30
        assert {trial.state for trial in trials} == {"failed", "complete"}
        assert folder.content["best_params"]["x"] >= 0
        # What fails is learnt from: of all that could be tried a half fails.
        assert len([job for job in failed if job >= 10]) <= 8

    def test_gives_up_if_the_first_jobs_all_fail(self, folder: Folder) -> None:
        def task(values: dict[str, Any]) -> float:
            raise UserError("no disk")

        with pytest.raises(UserError, match="no disk"):
            folder.search(task, 20)
        assert [trial.state for trial in folder.trials] == ["failed"] * GIVE_UP
        assert folder.content["best_params"] is None

    def test_a_pruned_job_is_no_failure_and_not_the_best(self, folder: Folder) -> None:
        def task(values: dict[str, Any]) -> float:
            return PrunedValue(0.0) if values["kind"] == "a" else parabola(values)

        for trial in folder.search(task, 12):
            assert trial.state == ("pruned" if trial.params["kind"] == "a" else "complete")
        assert folder.content["best_params"]["kind"] == "b"

    @pytest.mark.parametrize("value", [None, math.nan, "12"])
    def test_what_is_no_number_is_a_failure(self, folder: Folder, value: object) -> None:
        with pytest.raises(UserError, match=f"job 0 returned {value!r}"):
            folder.search(lambda values: value, 4)
        assert folder.trials[0].state == "failed"


class TestAgain:
    """The same command with the folder of a sweep."""

    @pytest.mark.parametrize("batch", [1, 3])
    def test_goes_on_as_if_nothing_had_happened(self, tmp_path: Path, batch: int) -> None:
        undisturbed, disturbed = Folder(tmp_path / "one"), Folder(tmp_path / "two")
        done: list[dict[str, Any]] = []

        def task(values: dict[str, Any]) -> float:
            if len(done) == 7:
                raise KeyboardInterrupt
            done.append(values)
            return parabola(values)

        with pytest.raises(KeyboardInterrupt):
            disturbed.search(task, 12, batch=batch)
        assert disturbed.trials[7].state == "running"
        expected = undisturbed.search(parabola, 12, batch=batch)
        assert disturbed.search(parabola, 12, batch=batch) == expected

    def test_jobs_of_the_folder_are_handed_over_together(self, folder: Folder) -> None:
        folder.search(parabola, 5)
        folder.search(parabola, 8)
        assert folder.batches == [5, 1, 1, 1]
        folder.search(parabola, 3)
        assert folder.batches == [3]
        assert len(folder.trials) == 8

    def test_more_trials_go_on(self, tmp_path: Path) -> None:
        many = Folder(tmp_path / "many").search(parabola, 9)
        few = Folder(tmp_path / "few")
        assert few.search(parabola, 6) == many[:6]
        assert few.search(parabola, 9) == many

    def test_jobs_stay_what_they_were_when_one_no_longer_fails(self, folder: Folder) -> None:
        def task(values: dict[str, Any]) -> float:
            if values["x"] < 0:
                raise UserError("no disk")
            return parabola(values)

        with pytest.raises(UserError, match="no disk"):
            folder.search(task, 12)
        before = folder.trials
        after = folder.search(parabola, 12)
        assert [trial.params for trial in after] == [trial.params for trial in before]
        assert {trial.state for trial in after} == {"complete"}

    def test_refuses_another_sweep(self, folder: Folder) -> None:
        folder.search(parabola, 1)
        kept = folder.content
        with pytest.raises(ConfigError, match="is of another sweep: it has x="):
            folder.search(parabola, 1, overrides=(*SPACE, "n=5"))
        assert folder.content == kept

    @pytest.mark.parametrize("text", ["{name: optuna", "name: optuna", "[]", "trials: [1]"])
    def test_refuses_a_file_that_is_no_such_file(self, folder: Folder, text: str) -> None:
        (folder.path / FILE).write_text(text)
        with pytest.raises(ConfigError, match="can not be read"):
            folder.search(parabola, 1)


class TestPlugin:
    """What Hydra sees."""

    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Callable[..., list[int]]:
        """Runs a sweep by Hydra; the sizes of its batches."""
        conf = tmp_path / "conf"
        (conf / "kind").mkdir(parents=True)
        (conf / "config.yaml").write_text("defaults: [_self_, kind: a]\nx: 1.0\n")
        for kind in "ab":
            (conf / "kind" / f"{kind}.yaml").write_text(f"name: {kind}")
        (conf / "searched").mkdir()
        (conf / "searched" / "x.yaml").write_text(
            "# @package _global_\nhydra: {sweeper: {params: {x: 'range(1,4)', kind: 'a,b'}}}\n"
        )

        def task(config: DictConfig) -> float:
            return parabola({"x": config.x, "kind": config.kind.name})

        def start(*overrides: str) -> list[int]:
            GlobalHydra.instance().clear()
            try:
                batches = Hydra.create_main_hydra2(
                    "numbers", create_config_search_path(str(conf))
                ).multirun(
                    config_name="config",
                    task_function=task,
                    overrides=[
                        "hydra/sweeper=optuna",
                        f"hydra.sweep.dir={tmp_path / 'sweep'}",
                        "hydra.job.chdir=false",
                        *overrides,
                    ],
                    with_log_configuration=False,
                )
            finally:
                GlobalHydra.instance().clear()
            return [len(batch) for batch in batches]

        return start

    def test_hydra_finds_it(self) -> None:
        names = [plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)]
        assert "OptunaSweeper" in names

    def test_runs_jobs_by_a_launcher(
        self, sweep: Callable[..., list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = ("hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
        assert sweep("x=interval(-10,10)", "kind=glob(*)", *settings) == [2, 2, 1]
        folder = Folder(tmp_path / "sweep")
        assert [trial.state for trial in folder.trials] == ["complete"] * 5
        assert {path.name for path in folder.path.iterdir()} >= {"0", "4", "multirun.yaml"}
        with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
            best = compose("config", shlex.split(capsys.readouterr().out.splitlines()[-1]))
        assert {"x": best.x, "kind": best.kind.name} == folder.content["best_params"]

    def test_batches_are_by_default_what_the_launcher_runs_at_a_time(
        self, sweep: Callable[..., list[int]]
    ) -> None:
        launcher = ("hydra/launcher=process", "hydra.launcher.n_jobs=2")
        assert sweep("x=range(9)", "hydra.sweeper.n_trials=3", *launcher) == [2, 1]

    def test_space_can_come_from_the_config(
        self, sweep: Callable[..., list[int]], tmp_path: Path
    ) -> None:
        assert sweep("+searched=x", "kind=b", "hydra.sweeper.n_trials=1") == [1]
        assert Folder(tmp_path / "sweep").trials[0].params.keys() == {"x"}

    def test_refuses_an_option_that_is_not_there_before_any_job(
        self, sweep: Callable[..., list[int]], tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigCompositionException, match="Could not find 'kind/d'"):
            sweep("kind=a,b,d")
        assert not (tmp_path / "sweep").exists()

    @pytest.mark.parametrize(
        ("typed", "error"),
        [
            ("n_trials=0", "hydra.sweeper.n_trials=0 must be at least 1"),
            ("n_jobs=0", "hydra.sweeper.n_jobs=0 must be at least 1"),
        ],
    )
    def test_refuses_settings(
        self, sweep: Callable[..., list[int]], typed: str, error: str
    ) -> None:
        with pytest.raises(ConfigError, match=error):
            sweep("x=1,2", f"hydra.sweeper.{typed}")

    def test_refuses_a_sampler_that_it_does_not_have(self, sweep: Callable[..., list[int]]) -> None:
        with pytest.raises(HydraException, match="sampler") as raised:
            sweep("x=1,2", "hydra.sweeper.sampler=grid")
        assert "one of [tpe, random]" in str(raised.value.__cause__)

    def test_says_how_to_install_optuna(
        self, sweep: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ConfigError, match=r"pip install 'babygpt-exp\[optuna\]'$"):
            sweep("x=1,2")

    def test_start_does_not_import_optuna(self) -> None:
        code = (
            "import sys, babygpt_exp.cli\n"
            "from hydra.core.plugins import Plugins\n"
            "Plugins.instance()\n"
            "assert 'hydra_plugins.babygpt_sweeper.sweeper' in sys.modules\n"
            "assert not {'optuna', 'torch', 'lightning', 'numpy'} & sys.modules.keys()\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=SECONDS)

    def test_command_needs_something_to_search(self, babygpt: Callable[..., Outcome]) -> None:
        outcome = babygpt("-m", "hydra/sweeper=optuna", "seed=1")
        assert outcome.exit_code == 2
        assert "nothing to search" in outcome.one_error_line()
        assert list(outcome.cwd.iterdir()) == []
