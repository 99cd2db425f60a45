"""`data=eir`: a model is trained from a server of EIR's protocol, and told what that can not do."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from eir_reference_server import EirReferenceServer, Traps
from experiment_harness import QUIET, SECONDS, TINY, Outcome
from hydra import compose, initialize_config_dir

from babygpt_exp.config import Config, load
from babygpt_exp.data.batches import MicroBatch
from babygpt_exp.data.module import StreamDataModule
from babygpt_exp.errors import ConfigError, UserError
from babygpt_exp.options import CONF
from streamer.split import split_documents

LIMITS = (
    "note: data=eir gives text in the server's order from where it stands, a place that "
    "all its clients share; no exact resume"
)
FRACTION, SALT = 0.2, "babygpt"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Documents that differ, of about a hundred words."""
    source = random.Random(3)
    words = ["the", "river", "Steven", "movie", "most", "over", "caf\u00e9", "under", "\n"]
    return [f"{n}: " + " ".join(source.choices(words, k=100)) for n in range(400)]


@pytest.fixture
def server(texts: list[str]) -> Iterator[EirReferenceServer]:
    with EirReferenceServer(texts, Traps(begins_again=True)) as started:
        yield started


def config_of(server: EirReferenceServer | str, *overrides: str) -> Config:
    url = server if isinstance(server, str) else server.url
    data = ("data=eir", f"data.url='{url}'", f"data.validation_fraction={FRACTION}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose("config", overrides=[*TINY, *data, *overrides]))


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[Callable[..., StreamDataModule]]:
    made: list[StreamDataModule] = []

    def connect(server: EirReferenceServer | str, *overrides: str) -> StreamDataModule:
        module = StreamDataModule(
            config_of(server, *overrides),
            micro_batch_tokens=512,
            log_path=tmp_path / "log",
            say=print,
        )
        made.append(module)
        module.connect()
        return module

    yield connect
    for module in made:
        module.close()


def documents_in(module: StreamDataModule, batches: list[MicroBatch]) -> list[str]:
    """The whole documents in batches, in order."""
    tokens = [batches[0].tokens[:1, 0], *(b.targets[b.targets >= 0] for b in batches)]
    flat = torch.cat(tokens).tolist()
    eot = module.tokenizer.end_of_text
    ends = [n for n, token in enumerate(flat) if token == eot]
    assert ends[0] == 0
    return [module.tokenizer.decode(flat[start + 1 : end]) for start, end in pairwise(ends)]


class TestDataModule:
    """The path from the server to tensors."""

    def test_each_sample_once_an_epoch_and_validation_text_never(
        self, server: EirReferenceServer, texts: list[str], connected: Any
    ) -> None:
        module = connected(server)
        held_out, _ = split_documents(texts, "validation", FRACTION, SALT)
        trained_on, _ = split_documents(texts, "train", FRACTION, SALT)
        validation = documents_in(module, module.validation_batches)
        assert validation == held_out[: len(validation)]
        assert len(validation) >= 5
        assert server.sent == texts[: len(server.sent)]
        batches: list[MicroBatch] = []
        for batch in module.train_dataloader():
            batches.append(batch)
            if batch.next is not None and batch.next["eir"]["epoch"] == 2:
                break
        found = documents_in(module, batches)
        assert found == (3 * trained_on)[: len(found)]
        assert len(found) > 2 * len(trained_on) - 10
        assert {tuple(batch.tokens.shape) for batch in batches} == {(8, 64)}
        assert module.reconnects == 0
        assert "reset" not in server.seen
        module.cursor = batches[-1].next
        assert module.state_dict()["cursor"]["eir"]["epoch"] == 2

    def test_a_server_that_ends_is_rewound_if_the_config_says_so(
        self, texts: list[str], connected: Any
    ) -> None:
        with EirReferenceServer(texts) as server:
            train = connected(server, "data.reset=true").train_dataloader()
            assert any(batch.next and batch.next["eir"]["epoch"] == 1 for batch in train)
            assert server.num_resets == 1

    def test_validation_bytes_are_those_of_its_text(
        self, server: EirReferenceServer, texts: list[str], connected: Any
    ) -> None:
        module = connected(server, "tokenizer.vocab_size=257", "run.eval_tokens=64")
        (batch,) = module.validation_batches
        text, *_ = split_documents(texts, "validation", FRACTION, SALT)[0]
        assert batch.num_targets == 64
        assert batch.text_bytes == 64
        assert text.encode().startswith(
            module.tokenizer.decode(batch.targets[0].tolist()).encode()[:50]
        )

    def test_it_can_not_go_on_from_a_checkpoint(
        self, server: EirReferenceServer, connected: Any
    ) -> None:
        module = connected(server)
        module.load_state_dict({"plan": None, "cursor": {"eir": {"epoch": 0, "samples": 7}}})
        with pytest.raises(UserError, match="start a new run, or serve the corpus with python -m"):
            next(module.train_dataloader())

    def test_a_server_without_text_outputs(self, texts: list[str], connected: Any) -> None:
        traps = Traps(outputs={"height": {"type": "tabular"}})
        with (
            EirReferenceServer(texts, traps) as server,
            pytest.raises(UserError, match=r"the server offers height \(tabular\)"),
        ):
            connected(server)


@pytest.fixture
def own_url(texts: list[str], tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """Our own server, which speaks that protocol too."""
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    with subprocess.Popen(
        [sys.executable, "-m", "streamer", "--source", "texts.jsonl", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 0


def test_from_our_own_server(own_url: str, texts: list[str], connected: Any) -> None:
    module = connected(own_url, "data.batch_size=25")
    trained_on, _ = split_documents(texts, "train", FRACTION, SALT)
    held_out, _ = split_documents(texts, "validation", FRACTION, SALT)
    assert set(documents_in(module, module.validation_batches)) <= set(held_out)
    batches: list[MicroBatch] = []
    for batch in module.train_dataloader():
        batches.append(batch)
        if batch.next is not None and batch.next["eir"]["samples"] == len(texts):
            break  # further batches come only once the server has told of its end
    found = documents_in(module, batches)
    assert len(set(found)) == len(found) > len(trained_on) - 40
    assert set(found) <= set(trained_on)


class TestConfig:
    """Values that can not be."""

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("data.url=http://127.0.0.1", "data.url=http://127.0.0.1 must start with ws:// or"),
            ("data.batch_size=0", "data.batch_size=0 must be between 1 and 512"),
            ("data.batch_size=513", "data.batch_size=513 must be between 1 and 512"),
            ("data.reset=maybe", "data.reset=maybe must be true or false"),
            ("+data.batchsize=5", "did you mean data.batch_size"),
            ("++data.seed=2", "unknown key data.seed"),  # the order is the server's
            ("++data.shuffle_shards=2", "unknown key data.shuffle_shards"),
        ],
    )
    def test_refused(self, override: str, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            config_of("ws://127.0.0.1:1/ws", override)
        assert words in str(caught.value).replace("'", "")


def test_a_run(server: EirReferenceServer, babygpt: Callable[..., Outcome]) -> None:
    outcome = babygpt(*QUIET, "data=eir", f"data.url={server.url}")
    assert outcome.exit_code == 0, outcome.errors
    assert outcome.errors == ""
    assert outcome.output.splitlines().count(LIMITS) == 1
    assert outcome.summary["tokens"] == 16384
    assert not (outcome.folder / "streamer.log").exists()
    checkpoint = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)
    assert set(checkpoint["StreamDataModule"]["cursor"]) == {"eir"}
    assert server.num_connections <= 3
    assert {"reset", "setValidationIds"}.isdisjoint(server.seen)
