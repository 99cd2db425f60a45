"""A whole run, looked at from outside: its folder, its files, its output."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment_harness import (
    TinyRun,
    read_rows,
    read_samples,
    read_summary,
    streamers_of,
)
from tokenizers import Tokenizer

from babygpt_exp.tracking.history import COLUMNS

NAMES = {
    "config.yaml",
    "metrics.csv",
    "samples.jsonl",
    "tokenizer.json",
    "checkpoints",
    "training_curve.svg",
    "summary.json",
    "streamer.log",
    "wandb",
}
STEPS, BATCH = 16, 1024
TABLE = ["step", "tokens", "kind", "prompt", "text"]


@pytest.fixture(scope="module")
def rows(tiny_run: TinyRun) -> list[dict[str, str]]:
    return read_rows(tiny_run.folder)


@pytest.fixture(scope="module")
def samples(tiny_run: TinyRun) -> list[dict[str, Any]]:
    return read_samples(tiny_run.folder)


@pytest.fixture(scope="module")
def summary(tiny_run: TinyRun) -> dict[str, Any]:
    return read_summary(tiny_run.folder)


@pytest.fixture(scope="module")
def wandb_folder(tiny_run: TinyRun) -> Path:
    (folder,) = tiny_run.folder.glob("wandb/offline-run-*")
    return folder


class TestProcess:
    """What a terminal and a process table see."""

    def test_says_nothing_on_standard_error(self, tiny_run: TinyRun) -> None:
        assert tiny_run.outcome.exit_code == 0
        assert tiny_run.outcome.errors == ""

    def test_output_in_a_pipe_has_no_escape_codes(self, tiny_run: TinyRun) -> None:
        assert "\x1b" not in tiny_run.outcome.output
        assert "\r" not in tiny_run.outcome.output

    def test_step_lines_agree_with_the_metrics(
        self, tiny_run: TinyRun, rows: list[dict[str, str]]
    ) -> None:
        found = re.findall(r"^step (\d+)/16 \| loss ([\d.]+)", tiny_run.outcome.output, re.M)
        assert dict(found) == {
            row["step"]: f"{float(row['train/loss']):.3f}" for row in rows if row["train/loss"]
        }

    def test_tells_where_the_results_are(self, tiny_run: TinyRun, wandb_folder: Path) -> None:
        output = tiny_run.outcome.output
        assert f"wandb leet {wandb_folder}" in output
        for name in ("training_curve.svg", "samples.jsonl", "checkpoints/last.ckpt"):
            assert str(tiny_run.folder / name) in output

    def test_embedded_streamer_is_gone(self, tiny_run: TinyRun, cache: Path) -> None:
        assert tiny_run.outcome.exit_code == 0
        assert streamers_of(cache) == []


class TestFolder:
    """The names and the small files of a run's folder."""

    def test_has_exactly_these_names(self, tiny_run: TinyRun) -> None:
        assert {path.name for path in tiny_run.folder.iterdir()} == NAMES

    def test_checkpoints_are_last_previous_and_best(self, tiny_run: TinyRun) -> None:
        names = {path.name for path in (tiny_run.folder / "checkpoints").iterdir()}
        assert names == {"last.ckpt", "previous.ckpt", "best.ckpt"}

    def test_writes_nothing_else(self, tiny_run: TinyRun) -> None:
        assert {path.name for path in tiny_run.outcome.cwd.iterdir()} == {"outputs"}

    def test_writes_nothing_into_home(self, tiny_run: TinyRun, environment: dict[str, str]) -> None:
        assert tiny_run.outcome.exit_code == 0
        assert list(Path(environment["HOME"]).iterdir()) == []

    def test_tokenizer_loads(self, tiny_run: TinyRun) -> None:
        tokenizer = Tokenizer.from_file(str(tiny_run.folder / "tokenizer.json"))
        assert tokenizer.get_vocab_size() == 512
        assert tokenizer.token_to_id("<|endoftext|>") is not None

    def test_curve_is_drawn(self, tiny_run: TinyRun) -> None:
        root = ET.fromstring((tiny_run.folder / "training_curve.svg").read_text())
        lines = root.findall("{http://www.w3.org/2000/svg}polyline")
        points = {line.get("id"): len(str(line.get("points")).split()) for line in lines}
        assert points == {"train": STEPS, "validation": STEPS // 4}

    def test_config_is_resolved(self, tiny_run: TinyRun) -> None:
        text = (tiny_run.folder / "config.yaml").read_text()
        assert "${" not in text
        assert "max_tokens: 16384" in text


class TestMetrics:
    """metrics.csv."""

    def test_columns(self, tiny_run: TinyRun) -> None:
        header = (tiny_run.folder / "metrics.csv").read_text().split("\n")[0]
        assert header == ",".join(COLUMNS)
        assert header.startswith(
            "step,tokens,seconds,train/loss,val/loss,val/bpb,lr,grad_norm,"
            "perf/tokens_per_s,perf/data_wait_frac,perf/mfu"
        )

    def test_lines_are_whole(self, tiny_run: TinyRun) -> None:
        text = (tiny_run.folder / "metrics.csv").read_text()
        assert text.endswith("\n")
        assert {line.count(",") for line in text.splitlines()} == {len(COLUMNS) - 1}

    def test_one_row_a_step_and_one_a_validation(self, rows: list[dict[str, str]]) -> None:
        train = [int(row["step"]) for row in rows if row["train/loss"]]
        validation = [int(row["step"]) for row in rows if row["val/loss"]]
        assert train == list(range(1, STEPS + 1))
        assert validation == [4, 8, 12, 16]
        assert len(rows) == len(train) + len(validation)

    def test_tokens_never_fall_and_end_at_the_budget(self, rows: list[dict[str, str]]) -> None:
        tokens = [int(row["tokens"]) for row in rows]
        assert tokens == sorted(tokens)
        assert tokens[-1] == STEPS * BATCH
        seconds = [float(row["seconds"]) for row in rows]
        assert seconds == sorted(seconds)

    def test_tokens_are_steps_times_the_batch(self, rows: list[dict[str, str]]) -> None:
        # Less only by what the last blocks of shards are padded with.
        for row in rows:
            assert int(row["step"]) * BATCH - 64 <= int(row["tokens"]) <= int(row["step"]) * BATCH

    def test_every_number_is_finite(self, rows: list[dict[str, str]]) -> None:
        numbers = [float(value) for row in rows for value in row.values() if value]
        assert all(map(math.isfinite, numbers))

    def test_the_model_learns(self, rows: list[dict[str, str]]) -> None:
        first, *_, final = (float(row["train/loss"]) for row in rows if row["train/loss"])
        assert abs(first - math.log(512)) < 0.05
        assert final < first - 0.5

    def test_bits_a_byte_follow_from_the_loss(self, rows: list[dict[str, str]]) -> None:
        ratios = [float(row["val/bpb"]) / float(row["val/loss"]) for row in rows if row["val/loss"]]
        assert max(ratios) - min(ratios) < 1e-9
        # Nats a token over bytes a token and ln 2: this tokenizer has 2 to 3 bytes a token.
        assert 2 < 1 / (ratios[0] * math.log(2)) < 3

    def test_rate_warms_up_and_down(self, rows: list[dict[str, str]]) -> None:
        rates = [float(row["lr"]) for row in rows if row["lr"]]
        assert max(rates) == 0.04
        assert rates[-1] == pytest.approx(0.04 * 0.5 / 16 / 0.5)

    def test_shares_and_speeds_make_sense(self, rows: list[dict[str, str]]) -> None:
        for row in (row for row in rows if row["train/loss"]):
            assert 0 <= float(row["perf/data_wait_frac"]) <= 1
            assert float(row["perf/tokens_per_s"]) > 0
            assert float(row["grad_norm"]) > 0
            assert float(row["perf/memory_mb"]) > 50
            assert float(row["perf/stream_reconnects"]) == 0


class TestSamples:
    """samples.jsonl."""

    def test_schema(self, samples: list[dict[str, Any]]) -> None:
        assert samples
        for sample in samples:
            assert list(sample) == TABLE
            assert isinstance(sample["text"], str)
            assert sample["kind"] in ("manual", "auto")

    def test_rounds(self, samples: list[dict[str, Any]]) -> None:
        steps = [sample["step"] for sample in samples if sample["kind"] == "manual"]
        assert steps == [4, 4, 8, 8, 12, 12, 16, 16]
        assert all(sample["tokens"] == sample["step"] * BATCH for sample in samples)

    def test_prompts(self, samples: list[dict[str, Any]], tiny_run: TinyRun) -> None:
        final = [sample for sample in samples if sample["step"] == STEPS]
        assert [sample["kind"] for sample in final] == ["manual", "manual", "auto", "auto"]
        assert [sample["prompt"] for sample in final[:2]] == ["This movie is the most", "Steven"]
        assert final[2]["prompt"] != final[3]["prompt"]
        assert all(sample["prompt"] for sample in final)

    def test_models_of_other_steps_say_something_else(self, samples: list[dict[str, Any]]) -> None:
        texts = [s["text"] for s in samples if s["prompt"] == "Steven"]
        assert len(set(texts)) > 1


class TestSummary:
    """summary.json."""

    def test_schema(self, summary: dict[str, Any]) -> None:
        assert set(summary) >= {
            "status",
            "error",
            "steps",
            "tokens",
            "seconds",
            "final_train_loss",
            "final_val_loss",
            "final_val_bpb",
            "best_val_bpb",
            "tokens_per_s",
            "parameters",
            "git_commit",
            "versions",
            "overrides",
            "seed",
        }
        assert (summary["status"], summary["error"]) == ("completed", None)

    def test_agrees_with_the_metrics(
        self, summary: dict[str, Any], rows: list[dict[str, str]]
    ) -> None:
        losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        validation = [row for row in rows if row["val/loss"]]
        assert summary["steps"] == int(rows[-1]["step"])
        assert summary["tokens"] == int(rows[-1]["tokens"])
        assert summary["final_train_loss"] == losses[-1]
        assert summary["final_val_loss"] == float(validation[-1]["val/loss"])
        assert summary["final_val_bpb"] == float(validation[-1]["val/bpb"])
        assert summary["best_val_bpb"] == min(float(row["val/bpb"]) for row in validation)
        assert summary["seconds"] >= float(rows[-1]["seconds"])
        speeds = [float(row["perf/tokens_per_s"]) for row in rows if row["perf/tokens_per_s"]]
        assert min(speeds) <= summary["tokens_per_s"] <= max(speeds)

    def test_says_what_was_typed(self, summary: dict[str, Any], tiny_run: TinyRun) -> None:
        assert summary["overrides"] == tiny_run.overrides
        assert summary["seed"] == 1

    def test_versions(self, summary: dict[str, Any]) -> None:
        assert {"python", "torch", "lightning", "wandb"} <= set(summary["versions"])
        assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]

    def test_is_plain_json(self, tiny_run: TinyRun) -> None:
        text = (tiny_run.folder / "summary.json").read_text()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert text == text.rstrip() + "\n"
