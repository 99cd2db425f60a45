"""Text to validate on that is no part of the corpus, and evaluations of all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from experiment_harness import TINY_MODEL, streamers_of
from hydra import compose, initialize_config_dir

from babygpt_exp.config import load
from babygpt_exp.data.module import StreamDataModule
from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.folder import RunFolder
from babygpt_exp.options import CONF
from babygpt_exp.saved import SavedRun
from babygpt_exp.tokenizer import END_OF_TEXT

TRAIN = [f"{n}: the river runs under the bridge, and Steven waits.\n" * 9 for n in range(60)]
HELD_OUT = [
    "A book that nobody trained on.\r\n\r\n  Its lines end as they do elsewhere.\r\n" * 20,
    f"caf\u00e9 \u6c34 \U0001f600 \0 {END_OF_TEXT} is text like any other",
    "",
    " ",
    *(f"chapter {n} " + "of bridges and rivers " * n for n in range(40)),
]
"""Text that is easily lost or counted twice, in some shards."""
SMALL = ("tokenizer.vocab_size=512", "tokenizer.setup_samples=40")
TOKENIZERS = {
    "none": (*SMALL, "tokenizer.split=none"),
    "superbpe": (*SMALL, "tokenizer=superbpe"),
    "bytes": ("tokenizer=bytes",),
}

Connect = Callable[..., StreamDataModule]


@pytest.fixture
def connect(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Connects the DataModule of a tiny run; its corpus lies beside a file of other text."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TRAIN)
    (tmp_path / "train.jsonl").write_text(lines)
    pq.write_table(pa.table({"text": HELD_OUT}), tmp_path / "other.parquet", row_group_size=7)
    made: list[StreamDataModule] = []

    def start(source: str, *overrides: str) -> StreamDataModule:
        data = ["data=local", f"data.source={tmp_path}/train.jsonl"]
        data.append(f"data.validation_source={tmp_path}/{source}")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = load(compose("config", overrides=[*TINY_MODEL, *data, *overrides]))
        log = tmp_path / "streamer.log"
        made.append(StreamDataModule(config, micro_batch_tokens=512, log_path=log, say=print))
        made[-1].connect()
        return made[-1]

    yield start
    for module in made:
        module.close()


def documents_of(module: StreamDataModule, tokens: list[int]) -> list[str]:
    """The documents that end in a row of targets."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == module.tokenizer.end_of_text:
            documents.append([])
        else:
            documents[-1].append(token)
    assert documents[-1] == []
    return [module.tokenizer.decode(document) for document in documents[:-1]]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_all_of_it_is_scored_once_and_all_else_trained_on(
    connect: Connect, cache: Path, tokenizer: str
) -> None:
    module = connect("other.parquet", "run.eval_tokens=null", *TOKENIZERS[tokenizer])
    assert len(streamers_of(cache)) == 1  # that of the validation text has ended
    batches = module.validation_batches
    targets = torch.cat([batch.targets[batch.targets >= 0] for batch in batches]).tolist()
    assert documents_of(module, targets) == HELD_OUT
    assert sum(batch.num_targets for batch in batches) == len(targets)
    assert sum(batch.text_bytes for batch in batches) == len("".join(HELD_OUT).encode())

    assert not any("chapter" in name for name in module.tokenizer.inner.get_vocab())
    plan = module.new_plan(fraction=module.config.data.held_out_fraction, shuffled=False)
    rows = [
        row[1:length]
        for batch in module.client.open(plan=plan, split="train", batch=8, epochs=1)
        for row, length in zip(batch.tokens, batch.lengths, strict=True)
    ]
    assert documents_of(module, [int(token) for row in rows for token in row]) == TRAIN
    next(module.train_dataloader())
    assert module.plan is not None
    assert module.plan["validation"]["fraction"] == 0


def test_a_limit_takes_its_first_tokens(connect: Connect) -> None:
    module = connect("other.parquet", "run.eval_tokens=192", "tokenizer=bytes")
    (batch,) = module.validation_batches
    assert batch.num_targets == batch.text_bytes == 192
    found = module.tokenizer.decode(batch.targets[batch.targets >= 0].tolist())
    assert found == HELD_OUT[0][:192]


def test_a_run_does_not_go_on_with_other_text(connect: Connect, tmp_path: Path) -> None:
    def check(stream: dict[str, Any], module: StreamDataModule) -> None:
        SavedRun(RunFolder(tmp_path), None, 0, {}, None, stream, {}, []).check_stream(module)

    module = connect("other.parquet", "tokenizer=bytes")
    next(module.train_dataloader())
    state = module.state_dict()
    check(state, module)
    pq.write_table(pa.table({"text": HELD_OUT[1:]}), tmp_path / "other.parquet")
    changed = connect("other.parquet", "tokenizer=bytes")
    with pytest.raises(
        ConfigError, match=r"validation_source=.*/other\.parquet has changed"
    ) as caught:
        check(state, changed)
    assert "\n" not in str(caught.value)
    check({key: state[key] for key in ("plan", "cursor")}, changed)  # as it was before


@pytest.mark.parametrize("name", ["nowhere.parquet", "empty.jsonl"])
def test_without_text_the_run_does_not_start(connect: Connect, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=name) as caught:
        connect(name, "tokenizer=bytes")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("data=local", "data.source=a.txt", "data.validation_source=a.txt"),
        ("data=mix", "data.sources=[b.txt,a.txt]", "data.validation_source=a.txt"),
    ],
    ids=["local", "mix"],
)
def test_text_that_is_trained_on_is_refused(overrides: tuple[str, ...]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=list(overrides))
    with pytest.raises(ConfigError, match=r"validation_source=a\.txt is trained on"):
        load(composed)
