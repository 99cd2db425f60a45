"""`hydra/launcher=submitit_slurm`: by submitit's local executor, and on a SLURM that is not one."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import QUIET, read_summary, run, wait_until
from fake_slurm import fake_slurm
from hydra import version
from hydra.test_utils.test_utils import TSweepRunner
from launcher_harness import TaskSweeps, error_of
from omegaconf import DictConfig
from sweep_harness import RunningSweep, learned

from babygpt_exp.errors import ConfigError, RunInterrupted

pytestmark = pytest.mark.slow

if find_spec("submitit") is None:
    pytest.skip("needs submitit", allow_module_level=True)

NAME = "hydra_plugins.babygpt_launcher.submitit_launcher.SubmititLauncher"
LOCAL = "hydra.launcher.executor=local"
STEPS = 100
RUN = (*QUIET, f"run.max_tokens={STEPS * 1024}", "run.log_every_tokens=1024", "seed=3")


@pytest.fixture
def sweep(
    hydra_restore_singletons: None, hydra_sweep_runner: TSweepRunner, tmp_path: Path
) -> TaskSweeps:
    """`a=0,1,...` with a task; what became of each job."""
    version.setbase("1.1")
    return TaskSweeps("submitit_slurm", NAME, hydra_sweep_runner, tmp_path)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Path]:
    """A SLURM; the folder that has its state."""
    with fake_slurm(tmp_path / "slurm"):
        yield tmp_path / "slurm"


def submitted(sweep_folder: Path) -> Path:
    """Folder of the only job that submitit has."""
    (folder,) = (path for path in (sweep_folder / ".submitit").glob("[0-9]*") if path.is_dir())
    return folder


class TestLocal:
    """Jobs of submitit's local executor."""

    def test_deaths_are_failed_jobs_and_the_others_go_on(self, sweep: TaskSweeps) -> None:
        def task(config: DictConfig) -> Any:
            if config.a == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if config.a == 1:
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
            return config.a

        results = sweep(task, 3, LOCAL)
        assert error_of(results[0]) == "job 0: killed by SIGKILL (out of memory?)"
        assert "job 1: local job " in error_of(results[1])
        assert results[2].return_value == 2

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("hydra.launcher.timeout_min=0", "timeout_min=0 must be at least 1"),
            ("hydra.launcher.max_num_timeout=-1", "max_num_timeout=-1 must be at least 0"),
            ("hydra.launcher.timeout_min=1", "needs SLURM's sbatch and srun on this machine"),
        ],
    )
    def test_bad_settings(
        self, sweep: TaskSweeps, override: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(Exception, match=words):
            sweep(lambda config: None, 1, override)


def test_preempted_run_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    """A real SIGUSR2 on the way; the curve is that of a run that nothing happened to."""
    sweep = tmp_path / "sweep"
    words = ("hydra/launcher=submitit_slurm", LOCAL, "hydra.launcher.timeout_min=30")
    running = RunningSweep(*RUN, *words, cwd=tmp_path, env=environment, folder=sweep)
    try:
        running.wait_for_job(0, 5)
        os.kill(task_of(submitted(sweep)), signal.SIGUSR2)
        undisturbed = run(*RUN, cwd=tmp_path, env=environment)
        outcome = running.end()
    finally:
        running.kill()
    assert (outcome.exit_code, undisturbed.exit_code) == (0, 0), outcome.errors
    log = next(submitted(sweep).glob("*.out")).read_text()
    assert "stopping after this step" in next(submitted(sweep).glob("*.err")).read_text()
    assert "Requeued job" in log
    assert f" of {STEPS}, from {sweep}/0/checkpoints/last.ckpt" in log
    assert read_summary(sweep / "0")["status"] == "completed"
    assert learned(sweep / "0") == learned(undisturbed.folder)


def task_of(folder: Path) -> int:
    """Process id of a local job's task, whose folder that is."""
    children = Path(f"/proc/{folder.name}/task/{folder.name}/children").read_text().split()
    (task,) = map(int, children)
    return task


class TestSlurm:
    """The commands are SLURM's, what they do is not."""

    def test_batch_script(self, sweep: TaskSweeps, slurm: Path, tmp_path: Path) -> None:
        results = sweep(
            lambda config: config.a,
            3,
            "hydra.launcher.timeout_min=90",
            "hydra.launcher.partition=gpu",
            "hydra.launcher.account=nlp",
            "hydra.launcher.gpus_per_node=1",
            "hydra.launcher.cpus_per_task=8",
            "hydra.launcher.mem_gb=32",
            "hydra.launcher.array_parallelism=2",
            "hydra.launcher.setup=[module load cuda]",
            "+hydra.launcher.additional_parameters.mail-type=FAIL",
        )
        assert [result.return_value for result in results.values()] == [0, 1, 2]
        (script,) = slurm.glob("*.sh")
        logs, python = f"{tmp_path}/sweep/.submitit/%A_%a/%A_%a", shlex.quote(sys.executable)
        assert (
            script.read_text()
            == f"""\
#!/bin/bash

# Parameters
#SBATCH --account=nlp
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=8
#SBATCH --error={logs}_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=a_module
#SBATCH --mail-type=FAIL
#SBATCH --mem=32GB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={logs}_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@120
#SBATCH --time=90
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {logs}_%t_log.out --error {logs}_%t_log.err {python} \
-u -m submitit.core._submit {tmp_path}/sweep/.submitit/%j
"""
        )

    def test_preempted_job_is_put_back_in_line(
        self, sweep: TaskSweeps, slurm: Path, tmp_path: Path
    ) -> None:
        def task(config: DictConfig) -> Any:
            lives = tmp_path / str(config.a)
            if not lives.exists():
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
                lives.touch()
                os.kill(os.getppid(), signal.SIGUSR2)
                time.sleep(60)
            return "again"

        (result,) = sweep(task, 1, "hydra.launcher.timeout_min=60").values()
        assert result.return_value == "again"

    def test_time_that_is_up_too_often(self, sweep: TaskSweeps, slurm: Path) -> None:
        def task(config: DictConfig) -> Any:
            os.kill(os.getppid(), signal.SIGUSR2)
            time.sleep(60)

        # submitit takes a job of so few minutes for one that is out of time.
        words = ("hydra.launcher.timeout_min=1", "hydra.launcher.max_num_timeout=0")
        (result,) = sweep(task, 1, *words).values()
        expected = "job 0: out of time: hydra.launcher.timeout_min=1, and max_num_timeout=0 times"
        assert error_of(result).startswith(expected)

    def test_launcher_may_leave_and_come_back(
        self, sweep: TaskSweeps, slurm: Path, tmp_path: Path
    ) -> None:
        def task(config: DictConfig) -> Any:
            if config.a == 1:
                os.kill(launcher, signal.SIGINT)
                wait_until(come_back.exists, "the launcher's return")
            elif left.exists():
                come_back.touch()
            return os.environ.get("SLURM_ARRAY_TASK_ID")

        launcher, left, come_back = os.getpid(), tmp_path / "left", tmp_path / "come-back"
        with pytest.raises(RunInterrupted, match=r"jobs go on in SLURM: scancel \d+ ends them"):
            sweep(task, 2)
        with pytest.raises(ConfigError, match="is of another sweep: its job 1, "):
            sweep(task, 2, "+b=1")
        left.touch()
        assert sweep(task, 2)[1].return_value == "1"
        assert len(list(slurm.glob("*_1.state"))) == 1  # it was not submitted twice
