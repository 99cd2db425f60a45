"""What a report says of a sweep: groups, sentences, and what mattered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_numbers import SCORES, run, sweep

from babygpt_exp.report.comparison import (
    levels_of,
    make_differences,
    make_groups,
    make_importances,
    short,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.015066227325619625", "0.015066"),
        ("1.2345678901234e-05", "1.2346e-05"),
        ("0.02", "0.02"),
        ("100_000_000", "100_000_000"),
        ("1234567890123456", "1234567890123456"),
        ("a_very_long_option", "a_very_long_option"),
        ("", ""),
    ],
)
def test_short(value: str, text: str) -> None:
    assert short(value) == text


class TestGroups:
    """Runs that differ in their seed alone."""

    def test_best_first_and_without_a_score_last(self) -> None:
        scores = {"sgd 1": None, "adamw 1": 2.0, "muon 2": 1.5, "adamw 2": 2.2, "muon 1": 1.4}
        groups = make_groups(*sweep(scores))
        assert [group.name for group in groups] == [
            "optimizer=muon",
            "optimizer=adamw",
            "optimizer=sgd",
        ]
        assert [run.seed for run in groups[0].runs] == [1, 2]
        assert groups[0].mean == pytest.approx(1.45)
        assert groups[0].error == pytest.approx(0.05)
        assert (groups[2].mean, groups[2].error) == (None, None)

    def test_seeds_alone_are_one_group(self) -> None:
        (group,) = make_groups([run(2.0, seed="1"), run(3.0, seed="2")], ["seed"])
        assert (group.name, group.mean) == ("all runs", 2.5)

    def test_a_value_that_was_not_given(self) -> None:
        groups = make_groups([run(2.0, ablation=""), run(1.0, ablation="base")], ["ablation"])
        assert [group.name for group in groups] == ["ablation=base", "without ablation"]

    def test_what_is_not_completed_counts_for_nothing(self) -> None:
        runs = [run(2.0, seed="1"), run(1.0, "interrupted", seed="2"), run(float("nan"), seed="3")]
        (group,) = make_groups(runs, ["seed"])
        assert (len(group.runs), group.mean, group.error) == (3, 2.0, None)


class TestSentences:
    """What is said of two groups."""

    @pytest.mark.parametrize(
        ("scores", "sentence"),
        [
            (
                {"muon 1": 1.0, "muon 2": 1.1, "muon 3": 1.2}
                | {"adamw 1": 1.081, "adamw 2": 1.179, "adamw 3": 1.283},
                "optimizer=muon beats optimizer=adamw by 0.081 +- 0.005 bits/byte over 3 seeds",
            ),
            (
                {"muon 1": 1.0, "muon 2": 1.1, "adamw 1": 1.1, "adamw 2": 1.11},
                "no difference between optimizer=muon and optimizer=adamw can be told from 2 seeds",
            ),
            (
                {"muon 1": 1.5, "muon 2": 1.5, "adamw 1": 1.5, "adamw 2": 1.5},
                "no difference between optimizer=muon and optimizer=adamw can be told from 2 seeds",
            ),
            (
                {"muon 7": 1.0, "adamw 7": 1.5},
                "one seed tells no difference: "
                "optimizer=muon 1.000, optimizer=adamw 1.500 bits/byte with seed 7",
            ),
            (
                {"adamw 7": 1.5, "muon 1": 1.4, "muon 7": 1.6},
                "one seed tells no difference: "
                "optimizer=adamw 1.500, optimizer=muon 1.600 bits/byte with seed 7",
            ),
        ],
        ids=["told", "not told", "all equal", "one seed", "one shared seed"],
    )
    def test_two_groups(self, scores: Mapping[str, float], sentence: str) -> None:
        differences, _ = make_differences(make_groups(*sweep(scores)))
        assert [difference.sentence for difference in differences] == [sentence]

    def test_no_shared_seed(self) -> None:
        differences, notes = make_differences(make_groups(*sweep({"muon 1": 1.0, "adamw 2": 1.5})))
        assert differences == []
        assert notes == ["comparisons left out, since both sides share no seed: 1"]

    def test_nothing_to_compare(self) -> None:
        assert make_differences(make_groups(*sweep({"muon 1": None, "adamw 1": None}))) == ([], [])
        assert make_differences(make_groups(*sweep({"muon 1": 1.0, "muon 2": 1.5}))) == ([], [])
        assert make_differences([]) == ([], [])


FULL = {
    f"{optimizer} {model} {seed}": 1.0
    + 0.1 * (optimizer == "adamw")
    + 0.5 * (model == "nano")
    + 0.03 * seed
    + 0.001 * seed * (optimizer == "adamw")
    for optimizer, model, seed in itertools.product(["muon", "adamw"], ["nano", "baby"], [1, 2, 3])
}


class TestSeveralKeys:
    """Two optimizers, two models, three seeds."""

    def test_values_first_then_groups(self) -> None:
        differences, notes = make_differences(make_groups(*sweep(FULL)))
        assert [(d.key, d.better, d.worse) for d in differences] == [
            ("optimizer", "optimizer=muon", "optimizer=adamw"),
            ("model", "model=baby", "model=nano"),
            (None, "optimizer=muon,model=baby", "optimizer=adamw,model=baby"),
            (None, "optimizer=muon,model=baby", "optimizer=muon,model=nano"),
            (None, "optimizer=muon,model=baby", "optimizer=adamw,model=nano"),
        ]
        assert differences[0].sentence == (
            "optimizer=muon beats optimizer=adamw by 0.102 +- 0.002 bits/byte over 3 seeds, "
            "on average over 2 settings of model"
        )
        assert differences[0].num_seeds == 3  # six runs a side, but a seed is one observation
        assert all(difference.holds for difference in differences)
        assert "5 comparisons" in notes[1]
        assert "5 still hold" in notes[1]

    def test_a_failed_run_takes_its_seed_out_of_the_average(self) -> None:
        differences, _ = make_differences(make_groups(*sweep(FULL | {"adamw nano 3": None})))
        assert [(d.key, d.num_seeds) for d in differences] == [
            ("optimizer", 2),
            ("model", 2),
            (None, 3),
            (None, 3),
            (None, 2),
        ]

    def test_where_one_setting_is_left_two_groups_say_it(self) -> None:
        failed: dict[str, float | None] = {f"adamw nano {seed}": None for seed in (1, 2, 3)}
        differences, _ = make_differences(make_groups(*sweep(FULL | failed)))
        assert [(d.key, d.worse) for d in differences] == [
            (None, "optimizer=adamw,model=baby"),
            (None, "optimizer=muon,model=nano"),
        ]

    def test_one_seed_is_said_once_of_each_kind(self) -> None:
        scores = {at: score for at, score in FULL.items() if at.endswith("1")}
        differences, notes = make_differences(make_groups(*sweep(scores)))
        assert [difference.key for difference in differences] == ["optimizer", "model", None]
        assert all("one seed tells no difference" in d.sentence for d in differences)
        assert notes == ["comparisons left out, since one seed tells no difference: 2"]

    @given(st.lists(st.none() | SCORES, min_size=12, max_size=12))
    def test_any_scores_make_true_sentences(self, scores: list[float | None]) -> None:
        runs, keys = sweep(dict(zip(FULL, scores, strict=True)))
        groups = make_groups(runs, keys)
        differences, _ = make_differences(groups)
        assert len(differences) <= 5
        for difference in differences:
            assert difference.mean >= 0
            told = difference.interval is not None and difference.mean > difference.interval
            assert (" beats " in difference.sentence) == told
            assert not difference.holds or told or difference.interval is not None
        for importance in make_importances(runs, keys)[0]:
            assert 0 <= importance.share <= 1
            assert importance.spread >= 0


class TestImportances:
    """Which key mattered."""

    def test_most_important_first(self) -> None:
        runs, keys = sweep(FULL)
        importances, notes = make_importances(runs, keys)
        assert [importance.key for importance in importances] == ["model", "optimizer", "seed"]
        assert importances[0].share > 0.9
        assert importances[0].spread == pytest.approx(0.5)
        assert sum(importance.share for importance in importances) == pytest.approx(1, abs=1e-3)
        assert notes == []

    def test_seeds_alone_say_nothing(self) -> None:
        assert make_importances([run(1.0, seed="1"), run(2.0, seed="2")], ["seed"]) == ([], [])

    def test_no_scores(self) -> None:
        runs, keys = sweep(dict.fromkeys(FULL))
        assert make_importances(runs, keys) == ([], [])

    def test_values_with_one_run_each(self) -> None:
        importances, notes = make_importances(*sweep({"muon 1": 1.0, "adamw 1": 1.5}))
        assert importances == []
        assert notes == [
            "how much optimizer matters can not be told: its values have one run each",
            "how much seed matters can not be told: completed runs have one value",
        ]

    def test_numbers_that_no_two_runs_share(self) -> None:
        runs = [run(2.0 + rate, lr=f"{rate}", model="ab"[i % 2]) for i, rate in enumerate(RATES)]
        importances, notes = make_importances(runs, ["lr", "model"])
        assert importances[0].key == "lr"
        assert importances[0].share > 0.8
        assert notes == ["lr is taken by quarters of its values to say how much it matters"]

    @pytest.mark.parametrize(
        ("values", "levels"),
        [
            (["a", "b", "a", "b"], ["a", "b", "a", "b"]),
            (["a", "b", "c"], None),
            (["1", "2", "3"], None),
            ([f"{rate}" for rate in range(8)], [0, 0, 1, 1, 2, 2, 3, 3]),
        ],
    )
    def test_levels(self, values: list[str], levels: list[int] | list[str] | None) -> None:
        assert levels_of(values) == levels


RATES = [0.01 * 1.5**i for i in range(12)]
