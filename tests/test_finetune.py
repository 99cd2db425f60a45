"""`init_from=RUN`: another run's weights and tokenizer, and a model that answers and stops."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import (
    Outcome,
    TinyRun,
    read_rows,
    read_samples,
    read_summary,
    run_all,
)
from forked_processes import Death
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from babygpt_exp.config import load
from babygpt_exp.errors import ConfigError
from babygpt_exp.generation.engine import Engine
from babygpt_exp.generation.request import Request
from babygpt_exp.generation.texts import generate
from babygpt_exp.initial import with_initial_model
from babygpt_exp.options import CONF
from babygpt_exp.sampling import Settings
from babygpt_exp.trained import load_trained

pytestmark = pytest.mark.slow

ANSWER = "Yes, it is."
SHORT = (
    "precision=32-true",
    "hardware.compile=false",
    "logger=none",
    "run.batch_tokens=512",
    "run.max_tokens=16384",
    "run.checkpoint_every_tokens=4096",
    "run.log_every_tokens=4096",
    "run.eval_every_tokens=8192",
    "sampling.max_new_tokens=8",
)
"""Thirty-two steps."""


class Tuned:
    """A run on instructions that nothing happened to, and one that was killed and went on; and a
    run on the text that the model knows."""

    def __init__(self, cwd: Path, ends: list[Outcome]) -> None:
        self.folder, self.disturbed, self.on_text = (cwd / name for name in ("run", "killed", "on"))
        self.ends = ends


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    questions = [f"Is number {number} a river?" for number in range(200)]
    columns = {"instruction": questions, "input": [None] * 200, "output": [ANSWER] * 200}
    path = tmp_path_factory.mktemp("instructions") / "a.parquet"
    pq.write_table(pa.table(columns, pa.schema(dict.fromkeys(columns, pa.string()))), path)
    return path


@pytest.fixture(scope="module")
def tuned(
    tiny_run: TinyRun,
    instructions: Path,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:
    """The run that it starts from is gone when it goes on."""
    cwd = tmp_path_factory.mktemp("tuned")
    shutil.copytree(tiny_run.folder, cwd / "base")
    typed = ["experiment=finetune", "init_from=base", f"data.source={instructions}", *SHORT]
    death = Death("babygpt_exp.module:GPTModule.training_step", 20)
    ends = run_all(
        [([*typed, "hydra.run.dir=run"], None), ([*typed, "hydra.run.dir=killed"], death)],
        cwd=cwd,
        env=environment,
    )
    shutil.rmtree(cwd / "base")
    on_text = [f"init_from={tiny_run.folder}", *SHORT, "run.max_tokens=1024", "hydra.run.dir=on"]
    on_text += ["run.eval_tokens=2048", "tokenizer=bytes"]
    ends += run_all([(["resume=killed"], None), (on_text, None)], cwd=cwd, env=environment)
    assert [end.exit_code for end in ends] == [0, -9, 0, 0], [end.errors for end in ends]
    return Tuned(cwd, ends)


def test_takes_model_and_tokenizer(tuned: Tuned, tiny_run: TinyRun) -> None:
    base, found = load_trained(tiny_run.folder), load_trained(tuned.folder)
    assert found.tokenizer.json == base.tokenizer.json
    assert found.config.init_from == "base"
    assert found.tokens == read_summary(tuned.folder)["tokens"]
    assert found.tokens < found.step * found.config.run.batch_tokens  # which has padding
    for group in ("model", "arch", "tokenizer"):
        assert found.config.plain[group] == base.config.plain[group]
    written = OmegaConf.load(tuned.folder / "config.yaml")
    assert written == OmegaConf.create(found.config.plain)
    assert not torch.equal(base.model.lm_head.weight, found.model.lm_head.weight)


def test_evaluates_before_the_first_step(tuned: Tuned, tiny_run: TinyRun) -> None:
    """Row 0 has the loss of the responses by the model that it starts from."""
    first, *_, last = [row for row in read_rows(tuned.folder) if row["val/loss"]]
    assert (first["step"], first["tokens"], first["train/loss"]) == ("0", "0", "")
    summary = read_summary(tuned.folder)
    assert summary["initial_val_loss"] == float(first["val/loss"])
    assert summary["final_val_loss"] == float(last["val/loss"]) < float(first["val/loss"]) / 2
    assert summary["best_val_bpb"] <= summary["final_val_bpb"]
    assert "nats before the first step" in tuned.ends[0].output
    assert "step 0/32 | val " in tuned.ends[0].output
    base = load_trained(tiny_run.folder)
    assert "initial_val_loss" not in read_summary(tiny_run.folder)
    prompt = "### Instruction:\nIs number 7 a river?\n\n### Response:\n"
    stop, encode = base.tokenizer.end_of_text, base.tokenizer.encode
    tokens = [stop, *encode(prompt), stop, *encode(ANSWER), stop]
    targets = torch.tensor([tokens[1:]])
    targets[0, : len(encode(prompt)) + 1] = -100
    nats = float(base.model(torch.tensor([tokens[:-1]]), targets))
    loss = nats / (len(encode(ANSWER)) + 1)
    assert math.isclose(loss, float(first["val/loss"]), rel_tol=0.1)  # of one of many


def test_answers_and_stops(tuned: Tuned) -> None:
    trained = load_trained(tuned.folder)
    engine = Engine(trained.model, trained.tokenizer, 2)
    requests = [
        Request(trained.prompt_tokens(f"Is number {number} a river?"), 24, Settings(temperature=0))
        for number in (1000, 2000)
    ]
    for found in generate(engine, requests):
        assert (found.text, found.finish_reason) == (ANSWER, "stop")


def test_samples_are_answers(tuned: Tuned) -> None:
    samples = read_samples(tuned.folder)
    assert {sample["kind"] for sample in samples} == {"manual", "auto"}
    for sample in samples:
        assert sample["prompt"].startswith("### Instruction:\n")
        assert sample["prompt"].endswith("\n\n### Response:\n")
    assert samples[-1]["text"] == ANSWER


def test_goes_on_without_the_run_that_it_started_from(tuned: Tuned) -> None:
    ours, theirs = (load_trained(path) for path in (tuned.folder, tuned.disturbed))
    assert ours.step == theirs.step == 32
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(weight, theirs.model.state_dict()[name]), name
    losses = [
        [(row["step"], row["val/loss"], row["train/loss"]) for row in read_rows(path)]
        for path in (tuned.folder, tuned.disturbed)
    ]
    assert losses[0] == losses[1]
    summaries = [read_summary(path)["initial_val_loss"] for path in (tuned.folder, tuned.disturbed)]
    assert summaries[0] == summaries[1]


def test_goes_on_with_text(tuned: Tuned, tiny_run: TinyRun) -> None:
    """The same corpus: what is measured at the start is what was measured at the end."""
    summary = read_summary(tuned.on_text)
    before = read_summary(tiny_run.folder)["final_val_loss"]
    assert summary["initial_val_loss"] == pytest.approx(before, rel=1e-5)
    (note,) = [line for line in tuned.ends[-1].output.splitlines() if line.startswith("note: ")]
    assert "tokenizer.name=bytes (the run has bpe)" in note


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


class TestConfig:
    """What is typed beside `init_from`."""

    def refusal(self, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(with_initial_model(composed(*overrides), overrides))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_finetune_needs_a_run(self) -> None:
        message = self.refusal("experiment=finetune", "data.source=a.parquet")
        assert message.startswith("init_from has no value; add init_from=RUN")

    def test_a_run_that_is_not_there(self) -> None:
        message = self.refusal("init_from=nowhere")
        assert message == "init_from: there is no run or checkpoint at nowhere"

    def test_another_model_is_refused(self, tiny_run: TinyRun) -> None:
        run = f"init_from={tiny_run.folder}"
        message = self.refusal(run, "model=baby", "arch.softcap=9")
        assert "model.width=512 (the run has 64)" in message
        assert "arch.softcap=9 (the run has 15.0)" in message
        assert "arch.name" not in message
        assert "arch.name=llama (the run has modern)" in self.refusal(run, "arch=llama")

    def test_the_same_model_is_none_other(self, tiny_run: TinyRun) -> None:
        typed = [f"init_from={tiny_run.folder}", "model.width=64", "arch=modern"]
        config = load(with_initial_model(composed(*typed), typed))
        assert (config.model.width, config.model.context) == (64, 64)
        assert config.run.max_tokens == config.model.budget_tokens

    def test_a_checkpoint_and_none(self, tiny_run: TinyRun) -> None:
        typed = [f"init_from={tiny_run.folder}/checkpoints/best.ckpt"]
        assert load(with_initial_model(composed(*typed), typed)).model.width == 64
        plain = composed()
        assert with_initial_model(plain, []) is plain
        assert load(plain).init_from is None
