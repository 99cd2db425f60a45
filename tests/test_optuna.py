"""`hydra/sweeper=optuna`: what is searched, what comes of it, and what a second start finds.

The jobs are a function of a few numbers. Most tests leave Hydra out, which takes longer to compose
a job than Optuna to choose one.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from optuna_harness import SPACE, Folder, parabola, space

from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.pruner import PrunedValue
from babygpt_exp.search.sampler import Sampler
from babygpt_exp.search.search import GIVE_UP
from babygpt_exp.search.trials import FILE, Trial


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
