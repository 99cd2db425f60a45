"""Streams from a real server: every token of an epoch exactly once, from any cursor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamer_harness import EOT, FRACTION, SALT, ServerProcess, epoch, make_plan, rows, sha256
from tokenizers import Tokenizer

from streamer.client import StreamClient, StreamError
from streamer.split import split_documents


def shards_by_hand(documents: list[str], tokenizer_json: str, split: str) -> list[list[int]]:
    """The tokens of the corpus' shards, from the definition."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    groups = [documents[:50], documents[50:100], documents[100:130]]
    groups += [documents[130 + 56 * i : 186 + 56 * i] for i in range(4)]
    shards = []
    for group in groups:
        kept, _ = split_documents(group, split, FRACTION, SALT)
        tokens = [0] if kept else []
        for document in kept:
            tokens += [*tokenizer.encode(document, add_special_tokens=False).ids, 0]
        shards.append(tokens)
    return shards


@pytest.fixture(autouse=True)
def _uploaded(client: StreamClient, tokenizer_json: str) -> None:
    client.upload_tokenizer(tokenizer_json)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_natural_order_is_the_definition(
    client: StreamClient,
    plan: dict[str, Any],
    split: str,
    documents: list[str],
    tokenizer_json: str,
) -> None:
    found = rows(epoch(client, plan | {"shuffle": None}, 7, split=split))
    wanted = [
        shard[start : start + 65]
        for shard in shards_by_hand(documents, tokenizer_json, split)
        for start in range(0, len(shard) - 1, 64)
    ]
    assert found == wanted


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_an_epoch_is_the_whole_split_once(
    client: StreamClient,
    plan: dict[str, Any],
    batch: int,
    documents: list[str],
    tokenizer_json: str,
) -> None:
    batches = epoch(client, plan, batch)
    natural = rows(epoch(client, plan | {"shuffle": None}, 32))
    found = rows(batches)
    assert found != natural
    assert sorted(found) == sorted(natural)
    assert batches[0].start == {"slot": 0, "sources": [{"epoch": 0, "group": 0, "block": 0}]}
    end = {"slot": len(natural), "sources": [{"epoch": 1, "group": 0, "block": 0}]}
    assert batches[-1].next == end
    assert [b.start for b in batches[1:]] == [b.next for b in batches[:-1]]
    assert [len(b.tokens) for b in batches[:-1]] == [batch] * (len(batches) - 1)
    if batch == 256:
        return
    assert found == rows(epoch(client, plan, 256))


def test_no_validation_text_is_in_train(
    client: StreamClient, plan: dict[str, Any], documents: list[str], tokenizer_json: str
) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    texts: dict[str, list[str]] = {}
    for split in ("train", "validation"):
        tokens: list[int] = []
        for row in rows(epoch(client, plan | {"shuffle": None}, 16, split=split)):
            tokens += row if row[0] == 0 and len(tokens) == 0 else row[1:]
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        texts[split] = split_documents(documents, split, FRACTION, SALT)[0]
        assert "".join(texts[split]) == "".join(_documents(tokens, tokenizer))
        assert EOT in text
    assert texts["validation"]
    assert not set(texts["train"]) & set(texts["validation"])
    assert sorted(texts["train"] + texts["validation"]) == sorted(documents)


def _documents(tokens: list[int], tokenizer: Tokenizer) -> list[str]:
    found, current = [], []
    for token in [*tokens, 0]:
        if token:
            current.append(token)
        else:
            found.append(tokenizer.decode(current))
            current = []
    return found


def test_ranks_share_every_batch(client: StreamClient, plan: dict[str, Any]) -> None:
    alone = epoch(client, plan, 12, epochs=2)
    for world in (2, 4):
        parts = [epoch(client, plan, 12, rank=r, world=world, epochs=2) for r in range(world)]
        assert {len(part) for part in parts} == {len(alone)}
        for whole, *pieces in zip(alone, *parts, strict=True):
            assert np.array_equal(np.concatenate([p.tokens for p in pieces]), whole.tokens)
            assert np.array_equal(np.concatenate([p.lengths for p in pieces]), whole.lengths)
            assert all((p.start, p.next) == (whole.start, whole.next) for p in pieces)


def test_resuming_anywhere_goes_on_the_same(client: StreamClient, plan: dict[str, Any]) -> None:
    whole = epoch(client, plan, 24, epochs=3)
    for index in (0, 1, len(whole) // 2, len(whole) // 3, len(whole) - 1):
        rest = epoch(client, plan, 24, epochs=3, cursor=whole[index].start)
        assert sha256(rest) == sha256(whole[index:])
    assert epoch(client, plan, 24, epochs=3, cursor=whole[-1].next) == []
    middle = whole[len(whole) // 2].start
    halves = epoch(client, plan, 24, epochs=3, cursor=middle, rank=1, world=2)
    assert np.array_equal(halves[0].tokens, whole[len(whole) // 2].tokens[12:])


def test_epochs_differ_and_an_endless_stream_goes_on(
    client: StreamClient, plan: dict[str, Any]
) -> None:
    first = rows(epoch(client, plan, 50))
    stream = client.open(plan=plan, split="train", batch=len(first))
    epochs = [rows([next(stream)]) for _ in range(3)]
    assert epochs[0] == first
    assert epochs[1] != first
    assert sorted(epochs[1]) == sorted(epochs[2]) == sorted(first)
    stream.close()


def test_one_batch_may_span_epochs(client: StreamClient, plan: dict[str, Any]) -> None:
    size = len(rows(epoch(client, plan, 50)))
    stream = client.open(plan=plan, split="train", batch=2 * size + 5)
    batch = next(stream)
    assert batch.next["slot"] == 2 * size + 5
    assert batch.next["sources"][0]["epoch"] == 2
    stream.close()


def test_the_seed_decides_and_the_plan_is_full(client: StreamClient, plan: dict[str, Any]) -> None:
    other = plan | {"shuffle": {"shards": 2, "seed": 6}}
    assert sha256(epoch(client, plan, 9)) == sha256(epoch(client, plan, 9))
    assert sha256(epoch(client, other, 9)) != sha256(epoch(client, plan, 9))
    streams = [client.open(plan=p, split="train", batch=9) for p in (plan, other)]
    assert streams[0].plan_id != streams[1].plan_id
    again = client.open(plan=streams[0].plan, split="train", batch=9)
    assert (again.plan, again.plan_id) == (streams[0].plan, streams[0].plan_id)
    assert again.plan["version"] == 2
    assert again.plan["tokenizer"]["vocab_size"] == 400


def test_batches_are_writable_and_typed(client: StreamClient, plan: dict[str, Any]) -> None:
    (batch, *_) = epoch(client, plan, 9)
    assert batch.tokens.dtype == np.uint16
    assert batch.tokens.shape == (9, 65)
    assert batch.tokens.flags.writeable
    assert batch.lengths.dtype == np.int32
    wide = plan | {"tokenizer": plan["tokenizer"] | {"vocab_size": 65_537}}
    (large, *_) = epoch(client, wide, 9)
    assert large.tokens.dtype == np.uint32
    assert np.array_equal(large.tokens, batch.tokens)


def test_raw_documents_come_in_order(client: StreamClient, documents: list[str]) -> None:
    for split in ("train", "validation"):
        wanted, _ = split_documents(documents, split, FRACTION, SALT)
        for count in (1, 60, 10_000):
            found = client.documents(split=split, fraction=FRACTION, salt=SALT, max_documents=count)
            assert found == wanted[:count]


def test_info_says_what_is_served(client: StreamClient) -> None:
    info = client.info()
    assert info["protocol"] == "babygpt.stream.v2"
    (source,) = info["sources"]
    assert (source["num_files"], source["num_shards"]) == (2, 7)
    assert info["limits"]["credit"] >= 8


@pytest.mark.parametrize("credit", [1, 2, 64])
def test_credit_does_not_change_the_data(
    client: StreamClient, plan: dict[str, Any], credit: int
) -> None:
    assert sha256(epoch(client, plan, 5, credit=credit)) == sha256(epoch(client, plan, 5))


def test_a_split_without_text_is_refused(
    client: StreamClient,
    plan: dict[str, Any],
    start_server: Any,
    tmp_path: Path,
    tokenizer_json: str,
) -> None:
    for fraction, split in ((0.0, "validation"), (1.0, "train"), (1e-9, "validation")):
        changed = plan | {"validation": {"fraction": fraction, "salt": SALT}}
        with pytest.raises(StreamError, match="validation fraction") as caught:
            client.open(plan=changed, split=split, batch=1)
        assert caught.value.code == "empty_split"
        assert caught.value.field == "plan.validation.fraction"


def test_shards_without_documents_of_the_split_are_passed(
    start_server: Any, tmp_path: Path, tokenizer_json: str
) -> None:
    """Of many shards of one document each, few are validation text."""
    texts = [f"document {number}" for number in range(40)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=1)
    server: ServerProcess = start_server(tmp_path / "a.parquet")
    wanted, _ = split_documents(texts, "validation", FRACTION, SALT)
    assert 0 < len(wanted) < 12
    with StreamClient([server.url]) as client:
        client.upload_tokenizer(tokenizer_json)
        for shards in (1, 3):
            plan = make_plan(tokenizer_json, shuffle={"shards": shards, "seed": 1})
            batches = epoch(client, plan, 1, split="validation", epochs=2)
            found = _documents(
                [t for row in rows(batches) for t in row], Tokenizer.from_str(tokenizer_json)
            )
            assert sorted(filter(None, found)) == sorted(wanted * 2)
            for index, batch in enumerate(batches):
                rest = epoch(client, plan, 1, split="validation", epochs=2, cursor=batch.next)
                assert sha256([batch, *rest]) == sha256(batches[index:])


def test_a_closed_stream_and_client_say_so(server: ServerProcess, plan: dict[str, Any]) -> None:
    client = StreamClient([server.url])
    stream = client.open(plan=plan, split="train", batch=1)
    stream.close()
    stream.close()
    other = client.open(plan=plan, split="train", batch=1)
    client.close()
    client.close()
    for closed in (stream, other):
        with pytest.raises(StreamError) as caught:
            for _ in closed:
                pass
        assert caught.value.code == "closed"
    with pytest.raises(StreamError, match="closed"):
        client.info()
