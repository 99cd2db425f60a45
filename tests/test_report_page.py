"""report.html in headless Chromium: it draws all, its switches work, and it fetches nothing.

`python tests/test_report_page.py` says how large a page of 100 runs is and how fast it opens.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium_harness import Chromium, find_chromium
from report_examples import SCRIPT, large, none, odd, silent, single, sweep, unfinished

from babygpt_exp.report.content import Report
from babygpt_exp.report.page import render

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed"),
]

DRAWN = "document.body && document.body.dataset.drawnMs"
CURVES = "[...document.querySelectorAll('#chart .scatterlayer .js-line')]"
NUM_CURVES = f"{CURVES}.filter((line) => line.getAttribute('d').length > 20).length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The one browser of these tests."""
    started = Chromium(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep."""
    return write(sweep(), tmp_path_factory.mktemp("page"))


def write(report: Report, folder: Path) -> Path:
    """The page of a report as a file."""
    page = folder / "report.html"
    page.write_text(render(report), encoding="utf-8")
    return page


def assert_quiet(browser: Chromium, page: Path) -> None:
    """Nothing was complained about, nothing was fetched, and no prompt has run."""
    assert browser.evaluate("window.hacked") is None
    assert browser.complaints() == []
    assert set(browser.requests()) == {page.as_uri()}


def overflow(browser: Chromium) -> int:
    """Pixels that are out of sight to the right."""
    pixels: int = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
    return pixels


def click(browser: Chromium, selector: str, place: int = 0) -> None:
    """Click the element at a place among those that are selected."""
    browser.evaluate(f"document.querySelectorAll({json.dumps(selector)})[{place}].click()")


class TestSweepInChromium:
    """The page of a sweep of 2 x 2 x 3 jobs, of which one failed and one was interrupted."""

    @pytest.fixture(autouse=True)
    def _page(self, browser: Chromium, sweep_page: Path) -> Iterator[None]:
        browser.open(sweep_page, DRAWN)
        yield
        assert_quiet(browser, sweep_page)

    def test_draws_every_curve(self, browser: Chromium) -> None:
        assert browser.evaluate(NUM_CURVES) == 12
        assert browser.evaluate("document.body.dataset.curves") == "12"

    def test_legend_toggles_a_group(self, browser: Chromium) -> None:
        click(browser, "#legend button", 3)
        browser.wait_for(f"{NUM_CURVES} === 9")
        pressed = "[...document.querySelectorAll('#legend button')].map((b) => b.ariaPressed)"
        assert browser.evaluate(pressed) == ["true", "true", "true", "false"]
        assert browser.evaluate("document.querySelectorAll('#runs td input:checked').length") == 9
        click(browser, "#legend button", 3)
        browser.wait_for(f"{NUM_CURVES} === 12")

    def test_table_toggles_runs(self, browser: Chromium) -> None:
        click(browser, "#runs td input", 0)
        browser.wait_for(f"{NUM_CURVES} === 11")
        assert browser.evaluate("document.querySelector('#legend button').ariaPressed") == "mixed"
        assert browser.evaluate("document.querySelector('#all').indeterminate")
        click(browser, "#all")
        browser.wait_for(f"{NUM_CURVES} === 12")
        click(browser, "#all")
        browser.wait_for(f"{NUM_CURVES} === 0")

    def test_axes_switch(self, browser: Chromium) -> None:
        title = "document.querySelector('#chart .xtitle').textContent"
        assert browser.evaluate(title) == "tokens trained on"
        before = browser.evaluate(f"{CURVES}[0].getAttribute('d')")
        click(browser, "#axis input[value=seconds]")
        browser.wait_for(f"{title} === 'minutes of training'")
        assert browser.evaluate(f"{CURVES}[0].getAttribute('d')") != before
        click(browser, "#log")
        browser.wait_for("document.getElementById('chart')._fullLayout.yaxis.type === 'log'")
        click(browser, "#close")
        browser.wait_for("document.getElementById('chart')._fullLayout.xaxis.range[0] > 5")

    def test_every_metric_can_be_shown(self, browser: Chromium) -> None:
        labels = browser.evaluate(
            "[...document.querySelectorAll('#metric option')].map((o) => o.text)"
        )
        assert labels[:3] == ["validation bits/byte", "validation loss", "train loss"]
        assert "memory, MB" not in labels  # no run has it
        for at, label in enumerate(labels):
            browser.evaluate(
                f"var s = document.querySelector('#metric'); s.value = {at};"
                "s.dispatchEvent(new Event('change'))"
            )
            title = "document.querySelector('#chart .ytitle').textContent"
            browser.wait_for(f"{title} === {json.dumps(label)} && {NUM_CURVES} === 12")

    def test_mean_over_seeds(self, browser: Chromium) -> None:
        click(browser, "#mean")
        browser.wait_for("document.body.dataset.curves === '4'")
        traces = browser.evaluate(
            "document.getElementById('chart').data.filter((t) => t.name)"
            ".map(({ name, x, y }) => ({ name, x, y }))"
        )
        group = sweep().groups[1]
        (trace,) = [trace for trace in traces if trace["name"] == f"{group.name}, mean of 3"]
        curves = [one.rows["val/bpb"].dropna().to_numpy() for one in group.runs]
        assert trace["y"] == pytest.approx(np.mean(curves, axis=0), rel=1e-4)
        assert trace["x"][-1] == 16_384_000
        assert browser.evaluate("document.querySelectorAll('#chart .fills path').length") == 4

    def test_picked_row_is_brought_out(self, browser: Chromium) -> None:
        browser.evaluate("document.querySelectorAll('#runs tbody tr')[4].focus()")
        browser.press("Enter")
        thick = f"{CURVES}.filter((line) => parseFloat(line.style.strokeWidth) > 3).length"
        browser.wait_for(f"{thick} === 1")
        assert browser.evaluate("document.querySelector('#runs .picked').dataset.run") == "4"
        assert browser.evaluate("document.querySelector('#parallel .picked').dataset.run") == "4"
        browser.press("Enter")
        browser.wait_for(f"{thick} === 0")

    def test_columns_sort(self, browser: Chromium) -> None:
        numbers = (
            "[...document.querySelectorAll('#runs tbody tr')].map((r) => Number(r.dataset.run))"
        )
        assert browser.evaluate(numbers) == list(range(12))
        click(browser, "#runs th button", 4)  # bits/byte
        assert browser.evaluate(numbers) == list(range(12))
        click(browser, "#runs th button", 4)
        assert browser.evaluate(numbers) == [
            *range(9, -1, -1),
            10,
            11,
        ]  # what is missing stays last
        click(browser, "#runs th button", 3)  # seed
        seeds = "[...document.querySelectorAll('#runs tbody tr')].map((r) => r.cells[4].innerText)"
        assert browser.evaluate(seeds) == sorted("123" * 4)

    def test_samples_stand_side_by_side(self, browser: Chromium) -> None:
        heads = (
            "[...document.querySelectorAll('#texts .head')].map((head) => head.innerText.trim())"
        )
        assert len(browser.evaluate(heads)) == 3
        first = "document.querySelector('#texts .sample').innerText"
        best = sweep().runs[0].samples
        assert browser.evaluate(first) == best[6]["prompt"] + best[6]["text"]
        browser.evaluate(
            "var p = document.querySelector('#position'); p.value = 0;"
            "p.dispatchEvent(new Event('input'))"
        )
        assert browser.evaluate(first) == best[0]["prompt"] + best[0]["text"]
        for place in range(12):
            click(browser, "#columns input", place)
        assert len(browser.evaluate(heads)) <= 6

    def test_prompts_are_text(self, browser: Chromium) -> None:
        texts = browser.evaluate("document.querySelector('#texts').innerText")
        assert SCRIPT in texts
        assert browser.evaluate("document.querySelectorAll('#texts script').length") == 0

    def test_parallel_coordinates_keep_what_is_dragged_over(self, browser: Chromium) -> None:
        browser.evaluate("document.querySelector('#parallel').scrollIntoView({ block: 'center' })")
        x, y, width, height = browser.evaluate(
            "(() => { const box = document.querySelectorAll('#parallel .reach')[1]"
            ".getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; })()"
        )
        browser.drag((x + width / 2, y + 2), (x + width / 2, y + height / 3))
        off = "document.querySelectorAll('#parallel .line.off').length"
        browser.wait_for(f"{off} === 6")  # adamw; muon is at the top of its axis
        browser.drag((x + width / 2, y + 20), (x + width / 2, y + 20))
        browser.wait_for(f"{off} === 0")

    def test_fits_any_screen(self, browser: Chromium) -> None:
        for width in (1280, 400):
            browser.resize(width)
            browser.wait_for(f"document.querySelector('#chart svg').clientWidth < {width}")
            assert overflow(browser) == 0
            below = "document.querySelector('#legend').getBoundingClientRect().top"
            chart = "document.querySelector('#chart svg').getBoundingClientRect().bottom"
            assert browser.evaluate(f"{below} >= {chart} - 1")

    def test_hovering_names_the_run(self, browser: Chromium) -> None:
        spot = browser.evaluate(
            "(() => { const chart = document.getElementById('chart'), best = chart.data.at(-1);"
            "const box = chart.querySelector('.nsewdrag').getBoundingClientRect();"
            "const { xaxis, yaxis } = chart._fullLayout;"
            "return [box.x + xaxis.d2p(best.x[5]), box.y + yaxis.d2p(best.y[5])]; })()"
        )
        browser.move(*spot)
        browser.wait_for("document.querySelector('#chart .hoverlayer').textContent")
        said = browser.evaluate("document.querySelector('#chart .hoverlayer').textContent")
        best = sweep().runs[0]
        assert best.name in said
        assert "validation bits/byte" in said


def test_single_run_in_chromium(browser: Chromium, tmp_path: Path) -> None:
    page = write(single(), tmp_path)
    browser.open(page, DRAWN, width=400)
    assert overflow(browser) == 0
    assert browser.evaluate(NUM_CURVES) == 2  # train and validation in one chart
    click(browser, "#legend button", 0)
    browser.wait_for(f"{NUM_CURVES} === 1")
    said = browser.evaluate("document.querySelector('.summary').innerText")
    assert all(word in said for word in ("25.17M", "41.2%", "1bed653d6f+", "torch 2.9.1"))
    heads = "[...document.querySelectorAll('#texts .head')].map((head) => head.innerText.trim())"
    assert browser.evaluate(heads) == ["4.096M tokens", "8.192M tokens", "16.38M tokens"]
    assert_quiet(browser, page)


@pytest.mark.parametrize("example", [none, silent, unfinished, odd])
def test_odd_reports_in_chromium(
    example: Callable[[], Report], browser: Chromium, tmp_path: Path
) -> None:
    report = example()
    page = write(report, tmp_path)
    browser.open(page, DRAWN, width=400)
    assert overflow(browser) == 0
    drawn = sum(one.rows["val/bpb"].notna().sum() > 0 for one in report.runs)
    assert browser.evaluate("document.body.dataset.curves") == str(drawn)
    assert browser.evaluate("document.querySelectorAll('#runs tbody tr').length") == (
        len(report.runs) if len(report.runs) > 1 else 0
    )
    if drawn == 0:
        assert "nothing has been logged" in browser.evaluate("document.body.innerText")
    assert browser.evaluate("document.title") == report.title
    assert_quiet(browser, page)


def test_many_runs_in_chromium(browser: Chromium, tmp_path: Path) -> None:
    page = write(large(100, 30), tmp_path)
    browser.open(page, DRAWN)
    assert browser.evaluate(NUM_CURVES) == 100
    assert browser.evaluate("document.querySelector('#legend').clientHeight") < 200
    assert_quiet(browser, page)


def measure(num_runs: int = 100, num_rows: int = 1000, repeats: int = 3) -> None:
    """Print size and times of a large page, each time in a new browser."""
    report = large(num_runs, num_rows)
    drawn = []
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        page = write(report, Path(place))
        print(f"{num_runs} runs of {num_rows} rows: {page.stat().st_size / 1e6:.2f} MB,", end=" ")
        print(f"written in {time.perf_counter() - start:.2f} s")
        for repeat in range(repeats):
            home = Path(place) / str(repeat)
            home.mkdir()
            browser = Chromium(home)
            try:
                browser.open(page, DRAWN)
                drawn.append(int(browser.evaluate("document.body.dataset.drawnMs")))
            finally:
                browser.close()
    print(f"all curves drawn after {statistics.median(drawn)} ms, median of {sorted(drawn)}")


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:]))
