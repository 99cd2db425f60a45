"""The benchmark: one JSON object with every figure, or one line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_harness import EXPERIMENTS, QUIET, SECONDS, TINY, Outcome, run

from babygpt_exp.bench.cli import config_of, main
from babygpt_exp.bench.endless import endless
from babygpt_exp.bench.windows import Window, ratios
from babygpt_exp.errors import ConfigError

pytestmark = pytest.mark.slow

RATES = (
    "tokens_per_s",
    "bare_loop_tokens_per_s",
    "ratio_to_bare_loop",
    "peak_gflops",
    "stream_tokens_per_s",
    "generate_tokens_per_s",
    "generate_batch32_tokens_per_s",
    "generate_uncached_tokens_per_s",
    "generate_percent_of_matmul",
    "first_token_ms",
    "peak_memory_mb",
    "first_step_seconds",
    "roof_gflops",
)
TRACED = (
    "import functools, torch; torch.compile = functools.partial(torch.compile, backend='eager')\n"
    "import babygpt_exp.peak as peak; peak.PEAK_SIZE = 512\n"
    "from babygpt_exp.bench.cli import main; main()"
)
"""The benchmark with small peaks, and a torch.compile that traces and guards, but generates no
code: whether anything is compiled again is the same, and there is less to wait for."""


def bench(*arguments: str, cwd: Path, env: dict[str, str]) -> Outcome:
    """`python -m babygpt_exp.bench ARGUMENTS`, from where its imports are done."""
    process = EXPERIMENTS.start("babygpt_exp.bench", *arguments, cwd=cwd, env=env, text=True)
    output, errors = process.communicate(timeout=SECONDS)
    return Outcome(process.wait(0), output, errors, cwd)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmark runs, with a folder for what is temporary."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "temporary").mkdir()
    return folder


@pytest.fixture(scope="module")
def done(place: Path, environment: dict[str, str]) -> Outcome:
    """The benchmark of a tiny model, as short as it can be, with all that a run has."""
    arguments = (*TINY, "hardware.compile=true", "--seconds=0.1", "--pairs=2")
    env = environment | {"TMPDIR": str(place / "temporary"), "WANDB_MODE": "online"}
    start = [sys.executable, "-c", TRACED, *arguments]
    done = run(cwd=place, env=env, start=start)
    assert done.exit_code == 0, done.errors
    return done


@pytest.fixture(scope="module")
def figures(done: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.output)
    return found


class TestFigures:
    """What is printed."""

    def test_speeds_are_speeds(self, figures: dict[str, Any]) -> None:
        assert all(figures[name] > 0 for name in RATES)
        assert 0 < figures["percent_of_peak"] <= 100
        assert 0 < figures["causal_percent_of_peak"] <= figures["percent_of_peak"]
        assert figures["percent_of_roof"] is None or 0 < figures["percent_of_roof"] <= 100
        assert 0 <= figures["data_wait_frac"] < 1
        assert 0.1 < figures["ratio_to_bare_loop"] < 10

    def test_says_what_was_measured(self, figures: dict[str, Any]) -> None:
        assert figures["model"]["arch"] == "modern"
        assert figures["model"]["vocab_size"] == 512
        assert figures["optimizer"] == "muon"
        assert figures["precision"] == "32-true"
        assert figures["logger"] == "wandb"
        assert figures["batch_tokens"] == figures["micro_batch_tokens"] == 1024
        assert figures["compiled"] is True
        assert figures["threads"] >= 1
        assert figures["flops_per_token"] == 6 * (12 * 64**2 + 512 * 64) + 12 * 64 * 64
        assert figures["generate_tokens"] == 64 - 32
        assert figures["generate_uncached_tokens"] == 16
        assert {"python", "torch", "lightning"} <= set(figures["versions"])

    def test_windows_are_there(self, figures: dict[str, Any]) -> None:
        assert len(figures["windows_tokens_per_s"]) == 3
        assert len(figures["bare_loop_windows_tokens_per_s"]) == 2
        assert len(figures["ratios_to_bare_loop"]) == 2
        assert min(figures["window_steps"]) >= 3
        assert figures["tokens_per_s"] == sorted(figures["windows_tokens_per_s"])[1]

    def test_peak_is_the_better_of_two(self, figures: dict[str, Any]) -> None:
        before, after = figures["peak_gflops_before"], figures["peak_gflops_after"]
        assert figures["peak_gflops"] == max(before, after)
        part = figures["flops_per_token"] * figures["tokens_per_s"] / figures["peak_gflops"]
        assert figures["percent_of_peak"] == pytest.approx(part / 1e7, rel=0.01, abs=0.01)

    def test_nothing_is_compiled_after_the_second_step(self, figures: dict[str, Any]) -> None:
        assert figures["recompiles_after_step_2"] == 0

    def test_process_and_streamer_have_their_memory(self, figures: dict[str, Any]) -> None:
        assert figures["peak_memory_mb"] > figures["streamer_memory_mb"] > 10

    def test_says_how_long_it_will_take(self, done: Outcome) -> None:
        assert "measuring, about 00:4" in done.errors
        assert "pair 2 of 2" in done.errors

    def test_leaves_nothing_behind(self, figures: dict[str, Any], place: Path) -> None:
        assert [path.name for path in place.iterdir()] == ["temporary"]
        assert not list((place / "temporary").glob("babygpt-bench-*"))


class TestUse:
    """What goes wrong is one line, and help is help."""

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["--seconds", "0"], "--seconds"),
            (["--pairs", "0"], "--pairs"),
            (["--pears", "3"], "--pears"),
            (["nano"], "nano"),
            (["model=nanoo"], "nano"),
            (["optimizer.lrr=1"], "optimizer.lr"),
            (["model=nano,baby"], "model=nano,baby"),
            (["precision=16-mixed", "hardware=cpu"], "bf16-mixed"),
        ],
    )
    def test_wrong_usage_is_one_line(
        self, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output, errors = capsys.readouterr()
        assert (end.value.code, output) == (2, "")
        assert word in errors
        assert errors.count("\n") == 1

    def test_a_missing_corpus_is_one_line(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        done = bench(*TINY, "data=local", "data.source=/absent", cwd=tmp_path, env=environment)
        assert (done.exit_code, done.output) == (1, "")
        assert "/absent" in done.errors.splitlines()[-1]
        assert "Traceback" not in done.errors
        assert not list(tmp_path.iterdir())

    def test_help_names_groups_and_settings(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        start = [sys.executable, "-m", "babygpt_exp.bench", "--help"]
        done = run(cwd=tmp_path, env=environment, start=start)
        assert (done.exit_code, done.errors) == (0, "")
        assert all(word in done.output for word in ("--seconds", "--pairs", "optimizer: adamw"))


class TestEndless:
    """The run that is measured."""

    def test_is_the_run_without_its_end(self) -> None:
        config = config_of([*QUIET, "run.log_every_tokens=2048"])
        run = endless(config).run
        assert run.max_tokens == config.run.max_tokens
        assert run.num_steps > 10**9
        assert run.interval_steps(run.log_every_tokens, parts=1000) == 2
        for interval in (run.eval_every_tokens, run.sample_every_tokens):
            assert run.interval_steps(interval, parts=8) > 10**9

    def test_logs_as_often_as_the_run_itself(self) -> None:
        config = config_of(["model=nano", "run.max_tokens=20_480_000"])
        assert config.run.num_steps == 10_000
        run = endless(config).run
        assert run.interval_steps(run.log_every_tokens, parts=1000) == 10

    def test_never_uploads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        assert vars(config_of(["model=nano"]).logger)["mode"] == "offline"

    def test_refuses_several_processes(self) -> None:
        with pytest.raises(ConfigError, match="hardware=ddp is for several processes"):
            config_of(["hardware=ddp", "hardware.devices=2"])


class TestRatios:
    """Each bare window against the trained ones around it."""

    @pytest.mark.parametrize(
        ("trained", "bare", "expected"),
        [
            ([100, 100], [100], [1.0]),
            ([90, 90, 90], [100, 100], [0.9, 0.9]),
            ([100, 80, 60], [90, 70], [1.0, 1.0]),  # a machine that slows down
        ],
    )
    def test_by_table(self, trained: list[int], bare: list[int], expected: list[float]) -> None:
        second = Window(num_tokens=0, num_steps=3, seconds=1.0, waited_seconds=0.0)
        windows = [[replace(second, num_tokens=n) for n in speeds] for speeds in (trained, bare)]
        assert ratios(windows[0], windows[1]) == pytest.approx(expected)
