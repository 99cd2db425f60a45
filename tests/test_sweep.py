"""A sweep that is disturbed in every way, and goes on with the same command."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from experiment_harness import QUIET, Outcome, read_summary, run, streamers_of
from sweep_harness import RunningSweep, learned, started

pytestmark = pytest.mark.slow

STEPS = 60
SWEEP = (
    *(word for word in QUIET if not word.startswith(("model.num_heads", "model.width"))),
    f"run.max_tokens={STEPS * 1024}",
    "run.log_every_tokens=1024",
    "run.checkpoint_every_tokens=4096",
    "model.num_heads=2,4",
    "model.width=64,36",  # four heads of 36 / 4 = 9 can not rotate: job 3 fails
)
FAILING = 3


class Story:
    """What the three commands said, and the folder that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: list[Outcome] = []
        self.num_streamers: list[int] = []
        self.between: dict[int, str] = {}
        self.times: dict[Path, int] = {}


def files(folder: Path) -> dict[Path, int]:
    """When the files of complete jobs were written."""
    return {
        path: path.stat().st_mtime_ns
        for number in range(FAILING)
        for path in (folder / str(number)).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], cache: Path
) -> Story:
    """Job 0 is killed, job 1 is under way at Ctrl-C; the same again; and once more."""
    cwd = tmp_path_factory.mktemp("disturbed")
    story = Story(cwd / "sweep")
    sweep = RunningSweep(*SWEEP, cwd=cwd, env=environment, folder=story.folder)
    try:
        sweep.wait_for_job(0, 20)
        story.num_streamers.append(len(streamers_of(cache)))
        sweep.kill_job()
        sweep.wait_for_job(1, 20)
        story.num_streamers.append(len(streamers_of(cache)))
        story.outcomes.append(sweep.stop(signal.SIGINT))
    finally:
        sweep.kill()
    for number in (0, 1):
        story.between[number] = (story.folder / str(number) / "summary.json").read_text()
    again = ("-m", *SWEEP, f"hydra.sweep.dir={story.folder}")
    story.outcomes.append(run(*again, cwd=cwd, env=environment))
    story.times = files(story.folder)
    story.outcomes.append(run(*again, cwd=cwd, env=environment))
    return story


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The same sweep, left alone."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    run("-m", *SWEEP, "hydra.sweep.dir=sweep", cwd=cwd, env=environment)
    return cwd / "sweep"


class TestDisturbed:
    """A job that fails by design, a SIGKILL, a Ctrl-C, and twice the same command again."""

    def test_ends_as_it_should(self, story: Story) -> None:
        assert [outcome.exit_code for outcome in story.outcomes] == [130, 1, 1]
        first, second, third = story.outcomes
        assert "sweep stopped by SIGINT, 2 jobs not begun; the same command with " in first.errors
        for outcome in (second, third):
            assert "model.num_heads=4" in outcome.errors.splitlines()[-1]
            assert "Traceback" not in outcome.errors

    def test_killed_job_is_a_failed_row_that_says_so(self, story: Story) -> None:
        summary = json.loads(story.between[0])
        assert summary["status"] == "failed"
        assert summary["error"] == "killed by SIGKILL (out of memory?)"

    def test_interrupted_job_is_one(self, story: Story) -> None:
        summary = json.loads(story.between[1])
        assert summary["status"] == "interrupted"
        assert summary["error"].startswith("stopped by SIGINT after step ")

    def test_nothing_runs_twice(self, story: Story) -> None:
        assert [started(outcome) for outcome in story.outcomes] == [[0, 1], [0, 1, 2, 3], [3]]
        assert "3 complete already" in story.outcomes[2].output
        assert files(story.folder) == story.times
        assert story.outcomes[1].output.count("going on after step ") == 2

    def test_all_rows_are_true(self, story: Story) -> None:
        summaries = [read_summary(story.folder / str(number)) for number in range(4)]
        assert [s["status"] for s in summaries] == ["completed"] * 3 + ["failed"]
        assert [s["steps"] for s in summaries] == [STEPS] * 3 + [0]
        expected = [*summaries[2]["overrides"][:-1], "model.width=36"]
        assert summaries[FAILING]["overrides"] == expected
        assert "model.num_heads=4" in summaries[FAILING]["error"]
        assert summaries[FAILING]["overrides"] == [
            *summaries[2]["overrides"][:-1],
            "model.width=36",
        ]

    @pytest.mark.parametrize("number", range(FAILING))
    def test_curves_are_those_of_an_undisturbed_sweep(
        self, story: Story, undisturbed: Path, number: int
    ) -> None:
        rows = learned(story.folder / str(number))
        assert [int(row["step"]) for row in rows if row["train/loss"]] == [*range(1, STEPS + 1)]
        assert rows == learned(undisturbed / str(number))

    def test_one_streamer_for_all(self, story: Story, cache: Path) -> None:
        assert story.num_streamers == [1, 1]
        assert not list(story.folder.glob("*/streamer.log"))
        assert streamers_of(cache) == []

    def test_other_overrides_are_refused(
        self, story: Story, environment: dict[str, str], tmp_path: Path
    ) -> None:
        before = (story.folder / "multirun.yaml").read_bytes()
        outcome = run(
            "-m", *SWEEP, "seed=2", f"hydra.sweep.dir={story.folder}", cwd=tmp_path, env=environment
        )
        assert outcome.exit_code == 2
        assert "is of another sweep" in outcome.one_error_line()
        assert files(story.folder) == story.times
        assert (story.folder / "multirun.yaml").read_bytes() == before
