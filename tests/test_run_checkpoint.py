"""What a checkpoint of one tiny run holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from experiment_harness import (
    TinyRun,
    read_rows,
    read_summary,
)
from omegaconf import OmegaConf

from babygpt_exp.config import load
from babygpt_exp.model import build_model

STEPS, BATCH = 16, 1024


@pytest.fixture(scope="module")
def rows(tiny_run: TinyRun) -> list[dict[str, str]]:
    return read_rows(tiny_run.folder)


@pytest.fixture(scope="module")
def summary(tiny_run: TinyRun) -> dict[str, Any]:
    return read_summary(tiny_run.folder)


@pytest.fixture(scope="module")
def last(tiny_run: TinyRun) -> dict[str, Any]:
    path = tiny_run.folder / "checkpoints" / "last.ckpt"
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


class TestCheckpoint:
    """last.ckpt and best.ckpt load without running code, and hold everything."""

    def test_weights_fit_the_model(self, last: dict[str, Any], summary: dict[str, Any]) -> None:
        names = list(last["state_dict"])
        assert not [name for name in names if "_orig_mod" in name]
        assert sum(w.numel() for w in last["state_dict"].values()) == summary["parameters"]
        assert all(torch.isfinite(weight).all() for weight in last["state_dict"].values())
        assert all(name.startswith("model.") for name in names)

    def test_step(self, last: dict[str, Any]) -> None:
        assert last["global_step"] == STEPS

    def test_optimizer_and_schedule(self, last: dict[str, Any]) -> None:
        (optimizer,) = last["optimizer_states"]
        moments = [state for state in optimizer["state"].values() if "momentum" in state]
        assert {group["kind"] for group in optimizer["param_groups"]} == {"muon", "adamw"}
        assert len(moments) == 3  # square, tall and wide matrices
        (schedule,) = last["lr_schedulers"]
        assert schedule["last_epoch"] == STEPS

    def test_cursor(self, last: dict[str, Any]) -> None:
        data = last["StreamDataModule"]
        assert data["cursor"] is not None
        assert data["plan"]["sequence_length"] == 64
        assert data["plan"]["sources"]

    def test_config_tokenizer_and_random_state(
        self, last: dict[str, Any], tiny_run: TinyRun
    ) -> None:
        ours = last["babygpt"]
        assert ours["config"]["run"]["max_tokens"] == STEPS * BATCH
        assert ours["tokenizer"] == (tiny_run.folder / "tokenizer.json").read_text()
        assert ours["tokens"] == STEPS * BATCH
        assert ours["rng"]["cpu"].dtype == torch.uint8

    def test_best_loads_and_is_no_worse(
        self, tiny_run: TinyRun, last: dict[str, Any], rows: list[dict[str, str]]
    ) -> None:
        best = torch.load(tiny_run.folder / "checkpoints" / "best.ckpt", weights_only=True)
        scores = {int(row["step"]): float(row["val/bpb"]) for row in rows if row["val/bpb"]}
        assert best["global_step"] == min(scores, key=lambda step: scores[step])
        assert set(best["state_dict"]) == set(last["state_dict"])

    def test_weights_load_into_a_bare_model(self, last: dict[str, Any]) -> None:
        config = load(OmegaConf.create(last["babygpt"]["config"]))
        model = build_model(config.model, config.arch, 512)
        weights = {name.removeprefix("model."): w for name, w in last["state_dict"].items()}
        model.load_state_dict(weights)
        assert model.logits(model.hidden(torch.zeros(1, 4, dtype=torch.int64))).shape == (1, 4, 512)
