"""`hydra/launcher=ray` on a real Ray of this machine: rough jobs, and a sweep beside `process`."""

from __future__ import annotations

import csv
import os
import secrets
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import QUIET, Outcome, read_summary, run, wait_until
from hydra import version
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from hydra.test_utils.test_utils import TSweepRunner
from launcher_harness import Awkward, TaskSweeps, error_of
from omegaconf import DictConfig
from sweep_harness import RunningSweep, learned, started

from babygpt_exp.sweep import node
from babygpt_exp.sweep.node import Supervisor, Witness
from babygpt_exp.sweep.ray_jobs import connect
from babygpt_exp.sweep.spawned import Parcel
from hydra_plugins.babygpt_launcher import base

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

if find_spec("ray") is None:
    pytest.skip("needs Ray", allow_module_level=True)

NAME = "hydra_plugins.babygpt_launcher.ray_launcher.RayLauncher"
STEPS = 60
SWEEP = (
    *(word for word in QUIET if not word.startswith(("model.num_heads", "model.width"))),
    f"run.max_tokens={STEPS * 1024}",
    "run.log_every_tokens=1024",
    "model.num_heads=2,4",
    "model.width=64,36",  # four heads of 36 / 4 = 9 can not rotate: job 3 fails
)
MEASURED = ("seconds", "tokens_per_s")
"""Columns of summary.csv that no two sweeps have in common."""


def rays() -> list[bytes]:
    """Ray's own processes among those that this one has started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    return [command for command in commands if b"ray" in command]


RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Environment of all who take part: it is a Ray of this machine alone."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray of two workers on this machine, which is gone in the end."""
    before = dict(os.environ)
    os.environ |= RAY
    connect(None, local_cpus=2, local_gpus=0)
    import ray

    assert rays()
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    os.environ.clear()  # Ray adds variables of its own
    os.environ.update(before)
    wait_until(lambda: not rays(), "the end of Ray's processes")


@pytest.fixture
def fresh_hydra(hydra_restore_singletons: None) -> None:
    """Hydra as its suites expect it, whatever version of its manners a test before has chosen."""
    version.setbase("1.1")


@pytest.fixture
def sweep(
    address: str, fresh_hydra: None, hydra_sweep_runner: TSweepRunner, tmp_path: Path
) -> TaskSweeps:
    """`a=0,1,...` with a task; what became of each job."""
    return TaskSweeps("ray", NAME, hydra_sweep_runner, tmp_path)


class TestRoughJobs:
    """Jobs that die, hang, and lose the process that looks after them."""

    def test_deaths_are_failed_jobs_and_the_others_go_on(
        self, sweep: TaskSweeps, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def task(config: DictConfig) -> Any:
            if config.a == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if config.a == 1:
                os._exit(7)
            if config.a == 2:
                raise Awkward(1, 2)
            if config.a == 3:
                time.sleep(60)
            print(f"hello from {config.a}")
            return os.getpid()

        results = sweep(task, 5, "hydra.launcher.time_limit_seconds=4")
        assert error_of(results[0]) == "job 0: killed by SIGKILL (out of memory?)"
        assert error_of(results[1]) == "job 1: ended with exit status 7"
        assert error_of(results[2]) == "Awkward: 1 and 2"
        assert error_of(results[3]) == "job 3: time limit of 4 s"
        assert results[4].return_value != os.getpid()
        assert "[4] hello from 4\n" in capfd.readouterr().out

    def test_a_job_whose_actor_dies_is_started_again(
        self, sweep: TaskSweeps, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def task(config: DictConfig) -> Any:
            lives = tmp_path / str(config.a)
            lives.write_text((lives.read_text() if lives.exists() else "") + ".")
            if config.a == 1 or len(lives.read_text()) == 1:
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
            return len(lives.read_text())

        results = sweep(task, 2, "hydra.launcher.max_retries=1")
        assert results[0].return_value == 2
        assert error_of(results[1]) == "job 1: lost 2 times, its worker process has died"
        assert (tmp_path / "1").read_text() == ".."
        assert "#0 : lost, its worker process has died; again (1 of 1)\n" in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("hydra.launcher.num_cpus=3", "a job takes 3 CPU and no node has more than 2"),
            ("hydra.launcher.n_jobs=0", "n_jobs=0 must be at least 1"),
            ("hydra.launcher.time_limit_seconds=0", "must be above 0"),
        ],
    )
    def test_bad_settings(self, sweep: TaskSweeps, override: str, words: str) -> None:
        with pytest.raises(Exception, match=words):
            sweep(lambda config: None, 1, override)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"^hydra/launcher=ray needs ray: pip install 'babygpt-exp"):
        base.need("ray", "ray", "ray")


def test_a_node_without_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "FILE_SECONDS", 0.1)
    witness = Witness.write(tmp_path)
    parcel = Parcel(0, b"", tmp_path / "0", tmp_path, {}, None)
    elsewhere = Witness(tmp_path / ".nodes", "another file of that name")
    said = Supervisor().begin(parcel, elsewhere, None, again=False)
    assert said is not None
    assert f"does not see {tmp_path}: start the sweep in, and give hydra.sweep.dir=" in said
    assert witness.is_seen()


@pytest.mark.usefixtures("address", "fresh_hydra")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("ray", [])], ids=["ray"])
class TestConformance(LauncherTestSuite):
    """Hydra's suite for launchers."""


class Story:
    """Two commands, the first of them stopped, and the folder that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: list[Outcome] = []
        self.between: list[dict[str, Any]] = []


@pytest.fixture(scope="module")
def story(
    address: str, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Story:
    """Jobs 0 and 1 are under way at Ctrl-C; the same again."""
    cwd = tmp_path_factory.mktemp("ray")
    story = Story(cwd / "sweep")
    env = environment | RAY
    words = (*SWEEP, "hydra/launcher=ray", f"hydra.launcher.address={address}")
    running = RunningSweep(*words, cwd=cwd, env=env, folder=story.folder)
    try:
        for number in (0, 1):
            running.hold_job(number, 5)
        story.outcomes.append(running.stop(signal.SIGINT))
    finally:
        running.kill()
    story.between = [read_summary(story.folder / str(number)) for number in (0, 1)]
    again = ("-m", *words, f"hydra.sweep.dir={story.folder}")
    story.outcomes.append(run(*again, cwd=cwd, env=env))
    return story


@pytest.fixture(scope="module")
def by_process(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The same sweep by `hydra/launcher=process`, left alone."""
    cwd = tmp_path_factory.mktemp("process")
    run("-m", *SWEEP, "hydra.sweep.dir=sweep", cwd=cwd, env=environment)
    return cwd / "sweep"


class TestBesideProcess:
    """A sweep with a job that fails by design."""

    def test_ends_as_it_should(self, story: Story) -> None:
        first, second = story.outcomes
        assert (first.exit_code, second.exit_code) == (130, 1), first.errors + second.errors
        goes_on = f"2 jobs not begun; the same command with hydra.sweep.dir={story.folder} goes on"
        assert f"sweep stopped by SIGINT, {goes_on}" in first.errors
        assert "model.num_heads=4" in second.errors.splitlines()[-1]
        assert "Traceback" not in first.errors + second.errors

    def test_jobs_were_interrupted_and_went_on(self, story: Story) -> None:
        for number, summary in enumerate(story.between):
            assert summary["status"] == "interrupted"
            assert summary["error"].startswith("stopped by SIGINT after step ")
            assert 0 < summary["steps"] < STEPS
            goes_on = f"[{number}] going on after step {summary['steps']} of {STEPS}, from "
            assert goes_on in story.outcomes[1].output
        assert sorted(started(story.outcomes[1])) == [0, 1, 2, 3]

    def test_summary_is_that_of_process(self, story: Story, by_process: Path) -> None:
        ours, theirs = (rows(folder / "summary.csv") for folder in (story.folder, by_process))
        assert ours == theirs
        assert [row["status"] for row in ours] == ["completed"] * 3 + ["failed"]

    @pytest.mark.parametrize("number", range(3))
    def test_curves_and_names_are_those_of_process(
        self, story: Story, by_process: Path, number: int
    ) -> None:
        ours, theirs = (folder / str(number) for folder in (story.folder, by_process))
        assert learned(ours) == learned(theirs)
        one, two = read_summary(ours), read_summary(theirs)
        assert one["distinct"] == two["distinct"]
        assert one["run_id"][:-6] == two["run_id"][:-6]  # the rest is random
        assert one["sweep"] == f"{story.folder.parent.name}_sweep"

    def test_nothing_else_is_left(self, story: Story, by_process: Path) -> None:
        ours, theirs = ({path.name for path in f.iterdir()} for f in (story.folder, by_process))
        assert theirs - ours == {"streamer.log"}  # there each job has its own
        assert ours <= theirs


def rows(path: Path) -> list[dict[str, str]]:
    """summary.csv without what was measured with a clock."""
    with path.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in MEASURED}
            for row in csv.DictReader(file)
        ]
