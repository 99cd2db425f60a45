"""A run of several processes is the run of one: the same batches, the same curve, one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import QUIET, Outcome, Running, read_rows, read_summary, run
from omegaconf import OmegaConf

from babygpt_exp.errors import ConfigError, RunInterrupted, UserError
from babygpt_exp.folder import RunFolder
from babygpt_exp.hardware import HARDWARE, HardwareConfig
from babygpt_exp.options import CONF
from babygpt_exp.parallel.ranks import LOST, Place, found_place
from babygpt_exp.parallel.start import died, outcome
from babygpt_exp.summary import first_summary

pytestmark = pytest.mark.slow

LEARNED = ("step", "tokens", "train/loss", "val/loss", "val/bpb", "lr")

EQUAL = (
    *QUIET,
    "run.max_tokens=51_200",
    "run.sample_every_tokens=25_600",
    "run.eval_every_tokens=10_240",
    "run.checkpoint_every_tokens=10_240",
    "run.eval_tokens=2_496",  # five batches: one rank has two, the other three
    "hardware.num_threads=1",
    "hardware.micro_batch_tokens=512",  # what two ranks add up is what one adds up
)
"""Fifty steps of two parts each."""


def hardware(option: str, **changes: Any) -> HardwareConfig:
    """`hardware=option` with some of its values changed."""
    values: dict[str, Any] = {}
    for name in {"auto": ["auto"], "cpu": ["cpu"]}.get(option, ["auto", "ddp", option]):
        layer = OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{name}.yaml"))
        assert isinstance(layer, dict)
        values |= {str(key): value for key, value in layer.items() if key != "defaults"}
    return HARDWARE[option](**{**values, **changes})


@pytest.fixture(scope="module")
def env(environment: dict[str, str]) -> dict[str, str]:
    """What ranks that nobody has started on one machine need: they talk over its loopback."""
    return environment | {"GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def alone(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    cwd = tmp_path_factory.mktemp("alone")
    end = run(*EQUAL, "hardware=cpu", "hydra.run.dir=run", cwd=cwd, env=env)
    assert end.exit_code == 0, end.errors
    return cwd / "run"


def largest_difference(one: Path, other: Path) -> float:
    """Of losses and rates; the rows must be at the same steps and tokens."""
    rows, others = read_rows(one), read_rows(other)
    assert [(r["step"], r["tokens"]) for r in rows] == [(r["step"], r["tokens"]) for r in others]
    pairs = [(a[name], b[name]) for a, b in zip(rows, others, strict=True) for name in LEARNED]
    assert len(rows) == 55  # fifty steps, five validations
    return max(abs(float(a) - float(b)) for a, b in pairs if a or b)


class TestCurve:
    """Fifty steps."""

    def test_two_ranks_are_one(self, alone: Path, env: dict[str, str], tmp_path: Path) -> None:
        parallel = ("hardware=ddp", "hardware.devices=2", "hydra.run.dir=run")
        end = run(*EQUAL, *parallel, cwd=tmp_path, env=env)
        assert end.exit_code == 0, end.errors
        assert largest_difference(alone, tmp_path / "run") < 1e-5
        summary = read_summary(tmp_path / "run")
        assert (summary["status"], summary["tokens"]) == ("completed", 51_200)
        assert end.output.count("validation  ") == 1  # one rank speaks
        assert {p.name for p in (tmp_path / "run").iterdir()} == {p.name for p in alone.iterdir()}

    def test_fsdp_stops_and_goes_on_with_one_and_with_four(
        self, alone: Path, env: dict[str, str], tmp_path: Path
    ) -> None:
        """Two processes that torchrun has started; SIGTERM reaches all, and they agree."""
        torchrun = Path(sys.executable).with_name("torchrun")
        start = [str(torchrun), "--standalone", "--nproc-per-node=2", "-m", "babygpt_exp"]
        two = Running(*EQUAL, "hardware=fsdp", cwd=tmp_path, env=env, start=start)
        folder = two.wait_for_rows(15)
        end = two.stop(signal.SIGTERM)
        summary = read_summary(folder)
        assert summary["status"] == "interrupted", end.errors
        assert summary["error"].startswith("stopped by SIGTERM after step"), end.errors
        assert 14 <= summary["steps"] < 50
        so_far = read_rows(folder)
        pairs = zip(so_far, read_rows(alone)[: len(so_far)], strict=True)
        assert (
            max(abs(float(a["train/loss"] or 0) - float(b["train/loss"] or 0)) for a, b in pairs)
            < 1e-4
        )
        shutil.copytree(folder, tmp_path / "four")
        (tmp_path / "one").symlink_to(folder)
        same = ("hardware.num_threads=1", "hardware.compile=false")
        one = run("resume=one", "hardware=cpu", *same, cwd=tmp_path, env=env)
        assert one.exit_code == 0, one.errors
        assert largest_difference(alone, folder) < 1e-3  # one rank adds up another number of parts
        ranks = ("hardware=ddp", "hardware.devices=4", "hardware.micro_batch_tokens=256")
        four = run("resume=four", *ranks, *same, cwd=tmp_path, env=env)
        assert four.exit_code == 0, four.errors
        assert largest_difference(alone, tmp_path / "four") < 1e-3


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def slurm(rank: int) -> dict[str, str]:
    """What srun tells each of two tasks on one machine."""
    return {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def test_rank_that_dies_ends_the_others(
    start_babygpt: Callable[..., Running], env: dict[str, str], tmp_path: Path
) -> None:
    """Two tasks of SLURM, which nobody watches."""
    port = {"MASTER_PORT": free_port()}
    endless = (*EQUAL, "run.max_tokens=20_480_000", "run.log_every_tokens=1024", "hardware=slurm")
    first, second = (start_babygpt(*endless, env=env | slurm(rank) | port) for rank in (0, 1))
    folder = first.wait_for_rows(2)
    second.kill()
    end = first.end()
    assert end.exit_code == 1
    summary = read_summary(folder)
    assert summary["status"] == "failed"
    assert "another process of this run has ended without a word" in summary["error"]
    assert "another process" in end.errors.splitlines()[-1]


class TestPlace:
    """Who a process is, by what started it."""

    @pytest.fixture(autouse=True)
    def _nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torchrun = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        for name in (*torchrun, *slurm(0), "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"):
            monkeypatch.setenv(name, "")  # so that what `found_place` sets is taken away again
            monkeypatch.delenv(name)

    @pytest.mark.parametrize("option", ["auto", "cpu", "ddp", "fsdp"])
    def test_nobody_started_it(self, option: str) -> None:
        assert found_place(hardware(option)) is None

    def test_slurm_is_named_where_it_is_not(self) -> None:
        with pytest.raises(ConfigError, match="use hardware=ddp"):
            found_place(hardware("slurm"))

    @pytest.mark.parametrize("option", ["ddp", "fsdp", "slurm"])
    def test_by_slurm(self, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in slurm(1).items():
            monkeypatch.setenv(name, value)
        assert found_place(hardware(option)) == Place(1, 2, 1, 2)
        assert os.environ["MASTER_PORT"] == str(15000 + 4242)

    def test_single_task_of_slurm_starts_ranks_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
        for name, value in (slurm(0) | alone).items():
            monkeypatch.setenv(name, value)
        assert found_place(hardware("ddp", devices=8)) is None
        assert found_place(hardware("slurm")) == Place(0, 1, 0, 1)

    def test_by_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8"}
        for name, value in (torchrun | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}).items():
            monkeypatch.setenv(name, value)
        assert found_place(hardware("fsdp")) == Place(5, 8, 1, 4)
        with pytest.raises(ConfigError, match="4 processes were started on this machine"):
            found_place(hardware("ddp", devices=2))
        with pytest.raises(ConfigError, match="add hardware=ddp"):
            found_place(hardware("auto"))


class TestRefusals:
    """What can not be, in one line, with nothing left behind."""

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["hardware=ddp"], "hardware=ddp on a CPU needs hardware.devices=N"),
            (["hardware=ddp", "hardware.devices=3"], "which 3 processes can not share evenly"),
            (["hardware=fsdp", "hardware.devices=2", "precision=16-mixed"], "has no FSDP"),
            (["hardware=ddp", "hardware.devices=0"], "hardware.devices=0 must be at least 1"),
            (
                ["hardware=ddp", "hardware.devices=2", "data=eir", "data.url=ws://127.0.0.1:9/ws"],
                "data=eir is for one process",
            ),
            (
                ["hardware=ddp", "hardware.devices=2", "hardware.micro_batch_tokens=1024"],
                "hardware.micro_batch_tokens=1024 must divide the 8 rows",
            ),
        ],
    )
    def test_is_refused(
        self, babygpt: Callable[..., Outcome], tmp_path: Path, arguments: list[str], error: str
    ) -> None:
        end = babygpt(*QUIET, *arguments)
        assert error in end.one_error_line()
        assert end.exit_code == 2
        assert list(tmp_path.iterdir()) == []


class TestOutcome:
    """What the one that started the ranks makes of their end."""

    class Failure:
        """As torchrun tells of a process."""

        def __init__(self, exitcode: int) -> None:
            self.exitcode = exitcode

    @pytest.mark.parametrize(
        ("codes", "words"),
        [
            ({}, ""),
            ({1: -9}, "rank 1 was killed by SIGKILL (out of memory?)"),
            ({0: -15, 1: -11}, "rank 1 was killed by SIGSEGV"),
            ({0: 1, 1: -9}, "rank 1 was killed by SIGKILL (out of memory?)"),
            ({0: 3}, "rank 0 ended with exit status 3"),
        ],
    )
    def test_names_who_died_first(self, codes: dict[int, int], words: str) -> None:
        assert died({rank: self.Failure(code) for rank, code in codes.items()}) == words  # type: ignore[misc]

    def test_error_of_a_rank_is_the_run_s(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such text") as raised:
            outcome({"error": "no such text", "exit_code": 2}, {}, 0, RunFolder(tmp_path))
        assert raised.value.exit_code == 2

    def test_stopped(self, tmp_path: Path) -> None:
        with pytest.raises(RunInterrupted, match="after step 3") as raised:
            outcome({"error": "after step 3", "exit_code": 143}, {}, 15, RunFolder(tmp_path))
        assert raised.value.exit_code == 143

    def test_death_is_written_down(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.start_summary(first_summary(1, []))
        with pytest.raises(UserError, match="rank 1 was killed by SIGKILL"):
            outcome({"error": LOST, "exit_code": 1}, {1: self.Failure(-9)}, 0, folder)  # type: ignore[dict-item]
        assert read_summary(tmp_path)["status"] == "failed"
        assert read_summary(tmp_path)["error"] == "rank 1 was killed by SIGKILL (out of memory?)"
