"""`hydra/launcher=process` as a plugin: Hydra's conformance suites, and rough children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.test_utils.test_utils import TSweepRunner
from launcher_harness import Awkward, TaskSweeps, error_of
from omegaconf import DictConfig

from hydra_plugins.babygpt_launcher.launcher import ProcessLauncher

NAME = "hydra_plugins.babygpt_launcher.launcher.ProcessLauncher"


def test_hydra_finds_it() -> None:
    assert "ProcessLauncher" in [
        plugin.__name__ for plugin in Plugins.instance().discover(Launcher)
    ]
    assert f"{ProcessLauncher.__module__}.{ProcessLauncher.__name__}" == NAME


@pytest.fixture(autouse=True)
def fresh_hydra(hydra_restore_singletons: None) -> None:
    """Hydra as its suites expect it, whatever version of its manners a test before has chosen."""
    version.setbase("1.1")


@pytest.fixture
def sweep(hydra_sweep_runner: TSweepRunner, tmp_path: Path) -> TaskSweeps:
    """`a=0,1,...` with a task, through Hydra; what became of each job."""
    return TaskSweeps("process", NAME, hydra_sweep_runner, tmp_path)


class TestRoughJobs:
    """Jobs that die, hang, leak and leave things behind."""

    def test_deaths_are_failed_jobs_and_the_others_go_on(self, sweep: TaskSweeps) -> None:
        def task(config: DictConfig) -> Any:
            if config.a == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if config.a == 1:
                os._exit(7)
            if config.a == 2:
                raise Awkward(1, 2)
            if config.a == 3:
                return lambda: "what can not be sent"
            return config.a

        results = sweep(task, 5)
        assert error_of(results[0]) == "job 0: killed by SIGKILL (out of memory?)"
        assert error_of(results[1]) == "job 1: ended with exit status 7"
        assert error_of(results[2]) == "Awkward: 1 and 2"
        assert results[4].return_value == 4

    def test_nothing_gets_from_job_to_job(self, sweep: TaskSweeps) -> None:
        def task(config: DictConfig) -> Any:
            seen = (os.environ.get("LEAK"), len(leaked), os.getpid())
            os.environ["LEAK"] = "yes"
            leaked.append(bytes(10_000_000))
            return seen

        leaked: list[bytes] = []
        results = [result.return_value for result in sweep(task, 3).values()]
        assert len({process for *_, process in results}) == 3
        assert {tuple(seen) for *seen, _ in results} == {(None, 0)}
        assert "LEAK" not in os.environ
        assert not leaked

    def test_time_limit(self, sweep: TaskSweeps) -> None:
        def task(config: DictConfig) -> Any:
            time.sleep(0 if config.a else 60)
            return config.a

        results = sweep(task, 2, "hydra.launcher.time_limit_seconds=1")
        assert error_of(results[0]) == "job 0: time limit of 1 s"
        assert results[1].return_value == 1

    def test_what_a_job_leaves_behind_is_ended(self, sweep: TaskSweeps) -> None:
        def task(config: DictConfig) -> Any:
            return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid

        (result,) = sweep(task, 1).values()
        deadline = time.monotonic() + 20
        while is_alive(result.return_value) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(result.return_value)

    def test_several_at_a_time_share_the_machine(
        self, sweep: TaskSweeps, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def task(config: DictConfig) -> Any:
            os.write(1, f"hello from {config.a}\n".encode())
            os.write(2, b"no line break")
            start = time.monotonic()
            time.sleep(0.3)
            return start, time.monotonic(), os.environ["CUDA_VISIBLE_DEVICES"]

        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        results = sweep(task, 4, "hydra.launcher.n_jobs=2")
        times = [result.return_value for result in results.values()]
        assert sorted(gpu for *_, gpu in times[:2]) == ["4", "7"]
        assert {gpu for *_, gpu in times} == {"4", "7"}
        assert times[0][0] < times[1][1]
        assert times[1][0] < times[0][1]
        output = capfd.readouterr().out
        for number in range(4):
            assert f"[{number}] hello from {number}\n" in output
            assert f"[{number}] no line break\n" in output

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("hydra.launcher.n_jobs=0", "n_jobs=0 must be at least 1"),
            ("hydra.launcher.time_limit_seconds=0", "must be above 0"),
        ],
    )
    def test_bad_settings(self, sweep: TaskSweeps, override: str, words: str) -> None:
        with pytest.raises(Exception, match=words):
            sweep(lambda config: None, 1, override)


def is_alive(process_id: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("process", []), ("process", ["hydra.launcher.n_jobs=2"])],
    ids=["one", "two"],
)
class TestConformance(LauncherTestSuite):
    """Hydra's suite for launchers."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [
        (
            "process",
            [
                # one at a time, so that the batches are seen
                "hydra/sweeper=basic",
                "hydra.sweeper.max_batch_size=2",
            ],
        )
    ],
)
class TestBatches(BatchedSweeperTestSuite):
    """Hydra's suite for sweepers that launch in batches."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({"defaults": [{"override hydra/launcher": "process"}]}, ["-m"])],
)
class TestIntegration(IntegrationTestSuite):
    """Hydra's suite that starts programs."""
