"""The doctor: what it says of the machine and of a run, and that real runs need about that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import (
    EXPERIMENTS,
    REPOSITORY,
    SECONDS,
    TINY,
    TINY_MODEL,
    Outcome,
    TinyRun,
    read_rows,
)

from babygpt_exp.compose import compose_config
from babygpt_exp.doctor import attempt, machine, measure
from babygpt_exp.doctor.limits import available_memory_mb, cpu_quota
from babygpt_exp.doctor.plan import make_plan
from babygpt_exp.doctor.verdict import verdicts

if os.name != "posix":
    pytest.skip("no POSIX", allow_module_level=True)

UNWRITABLE = Path("/proc")
"""A folder in which not even root can make anything."""

Doctor = Callable[..., Outcome]


@pytest.fixture
def doctor(tmp_path: Path, environment: dict[str, str]) -> Doctor:
    """`python -m babygpt_exp.doctor ARGUMENTS`, from where its imports are done."""

    def start(*arguments: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Outcome:
        process = EXPERIMENTS.start(
            "babygpt_exp.doctor", *arguments, cwd=cwd, env=env or environment, text=True
        )
        output, errors = process.communicate(timeout=SECONDS)
        return Outcome(process.wait(0), output, errors, cwd)

    return start


class TestQuick:
    """Without measuring."""

    def test_json_has_the_machine_the_needs_and_a_verdict(self, doctor: Doctor) -> None:
        done = doctor("--quick", "--json", *TINY)
        assert done.exit_code == 0, done.errors
        report = json.loads(done.output)
        has = report["machine"]
        assert has["cpu"]["usable"] == len(os.sched_getaffinity(0))
        assert 0 < has["memory"]["available_mb"] <= has["memory"]["total_mb"]
        assert has["disk"]["runs"]["writable"]
        assert has["gpus"] or has["no_gpu"]
        assert has["precisions"]["32-true"] == {"gflops": None, "native": True, "problem": None}
        assert has["wandb"] == {"version": has["wandb"]["version"], "logged_in": False} | {
            "mode": "offline"
        }
        assert set(has["extras"]) == set(machine.EXTRAS)
        needs = report["needs"]
        assert needs["model"]["steps"] == 16
        assert needs["model"]["vocab_size"] == 512
        assert needs["memory_mb"]["how"] == "estimated"
        assert needs["seconds"]["how"].endswith("nothing was measured")
        assert report["can_run"]
        assert {verdict["what"] for verdict in report["verdicts"]} >= {"memory", "disk", "W&B"}

    def test_words_are_short_lines(self, doctor: Doctor) -> None:
        done = doctor("--quick", *TINY)
        assert done.exit_code == 0, done.errors
        lines = done.output.splitlines()
        assert {"this machine", "this run", "verdict: it can run"} <= set(lines)
        assert max(len(line) for line in lines if "disk: cache" not in line) <= 120

    def test_leaves_nothing(self, doctor: Doctor, tmp_path: Path) -> None:
        doctor("--quick", *TINY)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["precision=16-mixed", *TINY_MODEL, "hardware=cpu"], "needs a GPU"),
            (["model=gpt2", "model.width=49152", "model.num_heads=8"], "a smaller model"),
            (["hardware.compile=true"], "install g++"),
            (["logger.mode=online"], "wandb login"),
        ],
    )
    def test_says_what_does_not_fit(
        self, doctor: Doctor, environment: dict[str, str], arguments: list[str], words: str
    ) -> None:
        done = doctor("--quick", *arguments, env=environment | {"PATH": "/nowhere"})
        assert done.exit_code == 1, done.errors
        assert "verdict: it can NOT run" in done.output
        lines = [line for line in done.output.splitlines() if "DOES NOT FIT" in line]
        assert any(words in line for line in lines)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["model=nan"], "there is no model=nan"),
            (["modle=nano"], "did you mean 'model'?"),
            (["model.widht=3"], "did you mean 'model.width'?"),
            (["run.max_tokens=many"], "run.max_tokens"),
            (["model=nano,baby"], "model"),
            (["resume=nowhere"], "there is no such folder"),
        ],
    )
    def test_wrong_usage_is_one_line(
        self, doctor: Doctor, arguments: list[str], words: str
    ) -> None:
        done = doctor("--quick", *arguments)
        assert done.exit_code == 2
        assert words in done.one_error_line()
        assert done.output == ""


def test_measures_without_compiler_home_and_a_place_to_write(
    doctor: Doctor, environment: dict[str, str], tiny_run: TinyRun, tmp_path: Path
) -> None:
    """The one measured run: its figures are those of a real run, and only the place is wrong."""
    env = {name: value for name, value in environment.items() if name not in ("HOME",)}
    env |= {"PATH": "/nowhere", "TMPDIR": str(tmp_path)}
    done = doctor("--json", *TINY, cwd=UNWRITABLE, env=env)
    report = json.loads(done.output)
    assert done.exit_code == 1
    assert [v["what"] for v in report["verdicts"] if not v["fits"]] == ["disk"]
    assert report["machine"]["precisions"]["32-true"]["gflops"] > 0
    assert report["machine"]["compiler"]["works"] is False
    needs = report["needs"]
    assert needs["memory_mb"]["how"] == "measured", needs["seconds"]["how"]
    real = max(float(row["perf/memory_mb"] or 0) for row in read_rows(tiny_run.folder))
    assert 0.6 < needs["memory_mb"]["process"] / real < 1.6
    assert 0.6 < needs["disk_mb"]["at_end"] / (used_bytes(tiny_run.folder) / 1e6) < 1.6
    assert needs["seconds"]["total"] > 0
    assert not list(tmp_path.iterdir())


def used_bytes(folder: Path) -> int:
    """Bytes of a folder's files, those with several names once."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*")}
    return sum(files.values())


class TestEstimates:
    """Sizes without computing them."""

    @pytest.mark.parametrize("arch", ["modern", "llama", "gpt2", "eir"])
    def test_weights_and_optimizer_are_those_of_the_checkpoint(self, arch: str) -> None:
        from babygpt_exp.model import build_model

        config = compose_config([*TINY, f"arch={arch}"])
        sizes = make_plan(config).sizes
        model = build_model(config.model, config.arch, 512)
        assert sizes.parameters == sum(p.numel() for p in model.parameters())
        assert sizes.gradients == 4 * sizes.parameters
        assert sizes.parameters * 4 < sizes.optimizer < sizes.parameters * 8

    def test_activations_grow_with_the_micro_batch(self) -> None:
        plans = [
            make_plan(compose_config([*TINY, f"hardware.micro_batch_tokens={tokens}"]))
            for tokens in (256, 512)
        ]
        small, large = (plan.sizes.activations for plan in plans)
        assert 1.8 < large / small < 2.2
        assert [plan.accumulation for plan in plans] == [4, 2]

    def test_a_smaller_micro_batch_is_advised_where_it_is_enough(self) -> None:
        config = compose_config([*TINY])
        plan = make_plan(config)
        has: dict[str, Any] = {
            "memory": {"available_mb": 560},
            "disk": {
                name: {"path": name, "free_mb": 1e6, "writable": True, "device": 1}
                for name in ("runs", "cache")
            },
            "wandb": {"logged_in": False},
            "compiler": {"works": True},
        }
        needs: dict[str, Any] = {
            "memory_mb": {"total": 1000.0, "activations": 800.0, "logits": 100.0},
            "disk_mb": {"most": 1.0, "cache": 1.0},
        }
        (line,) = [v.line for v in verdicts(config, plan, has, needs) if not v.fits]
        assert "hardware.micro_batch_tokens=512 would fit" in line
        has["memory"]["available_mb"] = 50
        (line,) = [v.line for v in verdicts(config, plan, has, needs) if not v.fits]
        assert "smaller model" in line

    def test_what_is_too_long_or_too_large_is_not_tried(self) -> None:
        plan = make_plan(compose_config([*TINY]))
        assert attempt.attempt([], plan, 100.0, 110.0) == (
            None,
            "there is too little memory to try",
        )
        large = make_plan(compose_config(["model=gpt2"]))
        assert attempt.attempt([], large, 0.0, None) == (None, "a step is too long to try")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo some; echo words >&2; exit 3", "the trial failed: words"),
        ("kill -9 $$", "the trial failed: exit status -9"),
        ("exec sleep 60", "the trial was not done after 1 s"),
    ],
)
def test_a_trial_that_fails_is_said_in_a_line(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(attempt, "IMPORT_SECONDS", 0.6)
    assert attempt.start([], 0.0) == (None, words)


def test_extras_are_those_of_the_package() -> None:
    import tomllib

    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    assert set(machine.EXTRAS) <= extras


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ("x.cpp:1:10: fatal error: Python.h: No such file\n", "python3-dev"),
        ("g++: error: unknown\nmore\n", "install g++ anew"),
        ("", "no reason given"),
    ],
)
def test_a_broken_compiler_is_said_in_a_line(errors: str, words: str) -> None:
    line = measure.why_not(errors)
    assert words in line
    assert "\n" not in line


class TestLimits:
    """Control groups, of both versions."""

    def test_none(self, tmp_path: Path) -> None:
        assert cpu_quota(tmp_path) is None
        assert available_memory_mb(tmp_path) is None

    def test_version_2_of_the_group_and_those_above(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
        write(tmp_path, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:  1000000 kB\n")
        write(tmp_path, "sys/fs/cgroup/a/cpu.max", "150000 100000\n")
        write(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
        write(tmp_path, "sys/fs/cgroup/a/memory.max", "100000000\n")
        write(tmp_path, "sys/fs/cgroup/a/memory.current", "90000000\n")
        write(tmp_path, "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 50000000\n")
        assert cpu_quota(tmp_path) == 1.5
        assert available_memory_mb(tmp_path) == 60.0

    def test_version_1(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/self/cgroup", "4:memory:/c\n3:cpu,cpuacct:/c\n")
        write(tmp_path, "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1\n")
        write(tmp_path, "sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n")
        write(tmp_path, "sys/fs/cgroup/memory/c/memory.limit_in_bytes", "20000000\n")
        write(tmp_path, "sys/fs/cgroup/memory/c/memory.usage_in_bytes", "5000000\n")
        assert cpu_quota(tmp_path) is None
        assert available_memory_mb(tmp_path) == 15.0


def write(root: Path, name: str, text: str) -> None:
    """A file of a system's."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("where", ["environment", "netrc", "nowhere"])
def test_a_key_is_found_without_asking(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if where == "netrc":
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine api.wandb.ai\n  login user\n  password " + "0" * 40)
        netrc.chmod(0o600)
    assert machine.has_wandb_key() == (where != "nowhere")
