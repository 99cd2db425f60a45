"""report.html as text, and the series that it draws."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from report_examples import NAN, SCRIPT, large, rows, run, samples, sweep

from babygpt_exp.report.page import SCRIPTS, TEMPLATE, render
from babygpt_exp.report.series import (
    MAX_POINTS,
    as_script,
    chosen_samples,
    curves,
    group_colours,
    num_points,
    thin,
)

MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def page() -> str:
    """The page of a sweep."""
    return render(sweep())


class TestPage:
    """The page as text."""

    def test_same_report_gives_same_bytes(self, page: str) -> None:
        assert render(sweep()) == page

    def test_names_nothing_to_fetch(self, page: str) -> None:
        own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
        assert "http:" not in own
        assert "https:" not in own
        assert re.findall(r'(?:src|href)="([^"]*)"', own) == ["data:,"]
        assert "default-src 'none'" in own

    def test_prompts_do_not_end_the_script(self, page: str) -> None:
        assert page.count("</script") == 3
        assert SCRIPT not in page
        data = json.loads(re.search(r'id="data">(.*)</script>', page)[1])  # type: ignore[index]
        assert SCRIPT in data["runs"][0]["samples"][1]["prompt"]
        assert json.loads(as_script({"a": "</script><!--\u2028"})) == {"a": "</script><!--\u2028"}

    def test_is_small(self) -> None:
        size = len(render(large(100, 1000)).encode())
        assert size < MOST_BYTES

    def test_files_are_short(self) -> None:
        assert {path.name for path in TEMPLATE.glob("*.js")} == set(SCRIPTS)
        for path in TEMPLATE.iterdir():
            text = path.read_text(encoding="utf-8")
            assert text.isascii()
            assert text.count("\n") <= 300


class TestSeries:
    """What is drawn of a run."""

    @pytest.mark.parametrize("count", [10, 11, 40, 500])
    def test_thin_keeps_ends_and_extremes(self, count: int) -> None:
        values = np.random.default_rng(count).normal(size=3000)
        values[[0, 5, 2999]] = math.nan, math.inf, math.nan
        places = thin(values, count)
        finite = np.flatnonzero(np.isfinite(values))
        assert len(places) <= count
        assert np.all(np.diff(places) > 0)
        assert {finite[0], finite[-1]} <= set(places.tolist())
        assert values[places].min() == values[finite].min()
        assert values[places].max() == values[finite].max()

    def test_short_curves_are_whole(self) -> None:
        assert thin(np.array([3.0, NAN, 1.0]), 500).tolist() == [0, 2]
        assert thin(np.array([NAN, NAN]), 500).tolist() == []

    def test_curve_is_that_of_the_rows(self) -> None:
        table = rows(1.2, 60)
        drawn = curves(table, num_points(1))
        validation = table.dropna(subset=["val/bpb"])
        places = drawn["metrics"]["val/bpb"]["at"]
        assert [drawn["tokens"][at] for at in places] == validation["tokens"].tolist()
        assert drawn["metrics"]["val/bpb"]["y"] == pytest.approx(validation["val/bpb"], rel=1e-4)
        assert "at" not in drawn["metrics"]["train/loss"]
        assert drawn["metrics"]["train/loss"]["y"] == pytest.approx(table["train/loss"], rel=1e-4)

    def test_more_runs_have_fewer_points(self) -> None:
        assert num_points(100)[0] == MAX_POINTS
        assert num_points(1000)[0] == MAX_POINTS / 10

    def test_samples_come_from_the_nearest_round(self) -> None:
        runs = [
            run({"seed": "1"}, 1, samples=samples(1, (100, 200, 300))),
            run({"seed": "2"}, 2, samples=samples(2, (104, 190))),
            run({"seed": "3"}, 3, samples=[]),
        ]
        positions, kept = chosen_samples(runs)
        assert positions == [100, 104, 190, 200, 300]
        assert {sample["tokens"] for sample in kept[1]} == {104, 190}
        assert kept[2] == []

    def test_very_many_samples_are_thinned(self) -> None:
        one = run({}, 1, samples=samples(1, tuple(range(1000, 500_000, 1000))))
        positions, kept = chosen_samples([one])
        assert len(positions) == 24
        assert (positions[0], positions[-1]) == (1000, 499_000)
        assert {sample["tokens"] for sample in kept[0]} == set(positions)

    @pytest.mark.parametrize("count", [0, 1, 10, 11, 100])
    def test_every_group_has_its_colour(self, count: int) -> None:
        colours = group_colours(count)
        assert len(set(colours)) == count
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
