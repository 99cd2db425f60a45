"""Instructions as batches: responses are scored, prompts are read, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import TINY_MODEL, architecture
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from babygpt_exp.config import Config, load
from babygpt_exp.data.batches import MicroBatch, split
from babygpt_exp.data.config import InstructionsConfig
from babygpt_exp.data.instructions import first_prompt, prompt_tokens, template_of
from babygpt_exp.data.module import StreamDataModule
from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.model import IGNORE, ModelConfig, build_model
from babygpt_exp.model.loss import plain_nats
from babygpt_exp.options import CONF
from babygpt_exp.tokenizer import END_OF_TEXT, train_bpe
from streamer.client import Batch
from streamer.sources.template import Template

END = 0
QUESTIONS = ["short", "what is {input}?", "a river " * 9, "caf\u00e9", "s", "t", "u", "v"]
ANSWERS = ["yes", "no {output}", "a river " * 30, "\u6c34 \U0001f600", "", "one", "two", "three"]


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose("config", overrides=["data=instructions", *overrides]))


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Batch, list[list[int]]]:
    """Packed blocks, and the targets of each that are a response's, written down apart."""
    width = draw(st.integers(8, 24))
    rows, lengths, scored = [], [], []
    for _ in range(draw(st.integers(1, 5))):
        row, targets = [END], []
        for _ in range(draw(st.integers(1, 4))):
            prompt = [1] * draw(st.integers(0, 4))
            response = [*([2] * draw(st.integers(0, 4))), END]
            row += [*prompt, END, *response]
            targets += response
        excess = max(0, len(row) - width)  # of a sample that is cut
        targets = targets[: len(targets) - excess] if excess < len(response) else []
        if not targets:
            row, targets, excess = [END, END, 2, END], [2, END], 0
        rows.append((row[:width] + [END] * width)[:width])
        lengths.append(min(len(row), width))
        scored.append(targets)
    values: dict[str, Any] = {"tokens": np.array(rows, np.uint16), "lengths": np.array(lengths)}
    rest = {f.name: None for f in dataclasses.fields(Batch) if f.name not in values}
    return Batch(**values, **rest), scored


@given(made=blocks(), rows=st.integers(1, 6))
def test_targets_are_those_of_responses(made: tuple[Batch, list[list[int]]], rows: int) -> None:
    batch, scored = made
    parts = list(split(batch, rows, END))
    found = [row[row != IGNORE].tolist() for part in parts for row in part.targets]
    assert found == [*scored, *([[]] * (len(found) - len(scored)))]
    for part, plain in zip(parts, split(batch, rows), strict=True):
        assert torch.equal(part.tokens, plain.tokens)
        assert part.num_tokens == plain.num_tokens == plain.num_targets
        assert part.num_targets == int((part.targets != IGNORE).sum())
        assert part.share_targets * len(parts) == sum(map(len, scored))
        assert (plain.targets == part.targets)[part.targets != IGNORE].all()


def test_a_part_without_targets_has_no_nats() -> None:
    values: dict[str, Any] = {"tokens": np.ones((1, 9), np.uint16), "lengths": np.array([1])}
    rest = {f.name: None for f in dataclasses.fields(Batch) if f.name not in values}
    (part,) = split(Batch(**values, **rest), 1, END)
    model = build_model(ModelConfig(1, 32, 2, 8, 8, 8), architecture("modern"), 16)
    plain = model.nats(model.hidden(part.tokens), part.targets, plain_nats)
    for nats in (model(part.tokens, part.targets), plain):
        loss = nats / part.share_targets
        loss.backward()
        assert float(loss.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class TestPrompts:
    """Where an answer begins."""

    tokenizer = train_bpe(300, [" ".join(QUESTIONS)])
    template = Template(["Q: {a}\n", "Hint: {b}\n", "A:"])

    def test_of_instructions(self) -> None:
        stop, *tokens, last = prompt_tokens(self.tokenizer, self.template, "what is {b}?")
        assert stop == last == self.tokenizer.end_of_text
        assert self.tokenizer.decode(tokens) == "Q: what is {b}?\nA:"

    def test_of_text(self) -> None:
        stop, *tokens = prompt_tokens(self.tokenizer, None, "text")
        assert (stop, tokens) == (self.tokenizer.end_of_text, self.tokenizer.encode("text"))

    def test_spelling_of_the_end_of_text_is_text(self) -> None:
        text = f"a {END_OF_TEXT} b"
        stop, *tokens = prompt_tokens(self.tokenizer, None, text)
        assert stop not in tokens
        assert self.tokenizer.decode(tokens) == text

    def test_first_of_a_block(self) -> None:
        assert first_prompt([END, 1, 2, END, 3, END, 4, END], END) == [END, 1, 2, END]
        assert first_prompt([END, END, 3, END], END) == [END, END]

    def test_a_plan_says_it(self) -> None:
        found = template_of({"sources": [{"prompt": ["{a}"]}]})
        assert found is not None
        assert found.pieces == ("{a}",)
        for plan in (None, {}, {"sources": [{"column": "text"}]}):
            assert template_of(plan) is None


class TestConfig:
    """`data=instructions`."""

    def test_alpaca(self) -> None:
        data = composed("data.source=a.parquet").data
        assert isinstance(data, InstructionsConfig)
        template = Template(data.prompt)
        assert template.columns == ("instruction", "input")
        row = {"instruction": "Do.", "input": "", "output": "Done."}
        assert template.fill(row) == "### Instruction:\nDo.\n\n### Response:\n"
        assert data.embedded_options["column"] == "output"

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("data.prompt=[]", "data.prompt has no {column}"),
            ("data.prompt=['{a']", "data.prompt has a brace"),
            ("data.prompt=text", "data.prompt=text must be a list"),
            ("data.column=null", "data.column=None must be text"),
        ],
    )
    def test_refuses(self, override: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(problem)):
            composed("data.source=a.parquet", override)

    def test_needs_a_source(self) -> None:
        with pytest.raises(ConfigError, match=r"data\.source has no value"):
            composed()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("instructions") / "a.parquet"
    columns = {"instruction": QUESTIONS, "input": [""] * 8, "output": ANSWERS}
    pq.write_table(pa.table(columns), path)
    return path


def connected(source: Path, log: Path, said: list[str], *overrides: str) -> StreamDataModule:
    config = composed(
        *TINY_MODEL,
        f"data.source={source}",
        f"data.validation_source={source.with_name('b.parquet')}",
        "tokenizer=bytes",
        "run.eval_tokens=null",
        *overrides,
    )
    return StreamDataModule(config, micro_batch_tokens=512, log_path=log, say=said.append)


def test_validation_scores_all_responses(
    source: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes and tokens of responses, each once; the one that is too long to its end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    source.with_name("b.parquet").write_bytes(source.read_bytes())
    said: list[str] = []
    module = connected(source, tmp_path / "streamer.log", said, "model.context=128")
    try:
        module.connect()
        batches = module.validation_batches
        first = next(iter(module.train_dataloader()))
    finally:
        module.close()
    answers = [answer.encode() for answer in ANSWERS]
    prompt = 128 - len("### Instruction:\n\n\n### Response:\n" + QUESTIONS[2]) - 1
    answers[2] = answers[2][:prompt]
    assert sum(batch.text_bytes for batch in batches) == sum(map(len, answers))
    num_ends = len(answers) - 1
    assert sum(batch.num_targets for batch in batches) == sum(map(len, answers)) + num_ends
    assert sum(batch.num_tokens for batch in batches) > sum(b.num_targets for b in batches)
    (note,) = said
    assert note.startswith("note: 1 validation samples are longer than model.context=128")
    assert isinstance(first, MicroBatch)
    assert 0 < first.num_targets < first.num_tokens
    assert module.plan is not None
    assert module.plan["sources"][0]["prompt"][1] == "### Input:\n{input}\n\n"


def test_a_missing_column_is_one_line(
    source: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    module = connected(source, tmp_path / "streamer.log", [], "data.column=answer")
    with pytest.raises(
        UserError, match="no column 'answer'; its columns are instruction"
    ) as caught:
        module.connect()
    module.close()
    assert "\n" not in str(caught.value)
