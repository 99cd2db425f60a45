"""The client of EIR's protocol: the text comes whole, once, and split as everywhere."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from eir_client_harness import Connect, Serve, joined, runs_of, words_in
from eir_reference_server import EOT
from hypothesis import given
from hypothesis import strategies as st
from streamer_harness import FRACTION, SALT, make_plan
from tokenizers import Tokenizer

from streamer.client import Batch
from streamer.eir.held_out import RUN_WORDS, HeldOut
from streamer.eir.packing import Packer
from streamer.eir.samples import documents_of
from streamer.split import is_validation, split_documents

VALIDATION = {"fraction": FRACTION, "salt": SALT}


class TestText:
    """What comes through is the text, all of it, once."""

    @pytest.mark.parametrize(("size", "batch"), [(1, 50), (7, 1), (512, 3)])
    def test_each_sample_once_whatever_the_requests(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, size: int, batch: int
    ) -> None:
        server = serve()
        batches = read(connect(server, batch_size=size), batch=batch)
        assert joined(batches) == expected()
        assert set(server.sizes) == {size}
        assert {len(b.tokens) for b in batches[:-1]} == {batch}
        assert batches[0].start == {"eir": {"epoch": 0, "samples": 0}}
        assert batches[-1].next == {"eir": {"epoch": 1, "samples": 0}}
        assert all(a.next == b.start for a, b in pairwise(batches))
        assert {"reset", "setValidationIds"}.isdisjoint(server.seen)

    def test_epochs_follow_without_a_gap(
        self, serve: Serve, connect: Connect, read: Any, expected: Any
    ) -> None:
        batches = read(connect(serve(begins_again=True)), epochs=3)
        one = expected()
        assert joined(batches) == one + one[1:] + one[1:]

    def test_setup_takes_nothing_from_the_training(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, few: list[str]
    ) -> None:
        server = serve()
        client = connect(server)
        kept, _ = split_documents(few, "train", FRACTION, SALT)
        assert client.documents(split="train", max_documents=20, **VALIDATION) == kept[:20]
        assert len(server.sent) < 40
        assert joined(read(client, "validation")) == expected(split="validation")
        assert joined(read(client, "validation")) == expected(split="validation")
        assert joined(read(client)) == expected()
        assert server.sent == few

    def test_validation_reads_no_further_than_needed(
        self, serve: Serve, connect: Connect, tokenizer_json: str
    ) -> None:
        server = serve()
        client = connect(server, batch_size=8)
        opened = client.open(plan=make_plan(tokenizer_json), split="validation", batch=1, epochs=1)
        next(opened)
        opened.close()
        held_out = [is_validation(text.encode(), FRACTION, SALT) for text in server.sent]
        assert sum(held_out) <= 2
        assert not any(held_out[:-8])

    def test_validation_text_is_never_trained_on_though_it_comes_again(
        self, serve: Serve, connect: Connect, few: list[str], tokenizer_json: str
    ) -> None:
        server = serve(ends=False)
        plan = make_plan(tokenizer_json)
        opened = connect(server).open(plan=plan, split="train", batch=16)
        batches = []
        while len(server.sent) < 3 * len(few):
            batches.append(next(opened))
        eot = plan["tokenizer"]["eot_id"]
        text = Tokenizer.from_str(tokenizer_json).decode(
            [token if token != eot else 10 for token in joined(batches)], skip_special_tokens=False
        )
        numbered = [text for text in few if ": " in text[:5]]
        for document in numbered:
            was_held_out = is_validation(document.encode(), FRACTION, SALT)
            assert text.count(document) == 0 if was_held_out else text.count(document) >= 2

    def test_a_server_that_cuts_words_and_loses_text(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, few: list[str]
    ) -> None:
        server = serve(words=30)
        client = connect(server, batch_size=8, separator=None)
        assert joined(read(client)) == expected(server.sent)
        assert len(" ".join(server.sent).split()) < len(" ".join(few).split())

    def test_validation_text_that_is_cut_in_other_places_is_cut_out(
        self, serve: Serve, connect: Connect, tokenizer_json: str
    ) -> None:
        source = random.Random(1)
        texts = [
            " ".join(f"{source.getrandbits(20):x}" for _ in range(source.randint(50, 150)))
            for _ in range(40)
        ]
        server = serve(texts, words=60, ends=False)
        client = connect(server, batch_size=7)
        plan = make_plan(tokenizer_json)
        held_out = client.open(plan=plan, split="validation", batch=20, epochs=1)
        validation = words_in(joined([next(held_out)]), tokenizer_json)
        opened = client.open(plan=plan, split="train", batch=16)
        batches = [next(opened)]
        while len(server.sent) < 1000:
            batches.append(next(opened))
        trained_on = words_in(joined(batches), tokenizer_json)
        kept, _ = split_documents(server.sent, "train", FRACTION, SALT)
        by_hash_alone = {run for text in kept for run in runs_of(text.split())}
        runs = runs_of(validation)
        assert len(runs & by_hash_alone) > len(runs) / 4
        assert not runs & runs_of(trained_on)
        assert len(set(trained_on)) > 1500

    def test_its_separator_becomes_the_end_of_text(
        self, serve: Serve, connect: Connect, read: Any, tokenizer_json: str
    ) -> None:
        server = serve(words=200)
        plan = make_plan(tokenizer_json)
        tokens = joined(read(connect(server, separator=EOT), plan=plan))
        kept, _ = split_documents(server.sent, "train", FRACTION, SALT)
        documents = [document for text in kept for document in documents_of(text, EOT)]
        assert tokens.count(plan["tokenizer"]["eot_id"]) == len(documents) + 1 > len(kept) + 1
        assert EOT not in "".join(documents)

    @pytest.mark.parametrize(
        ("text", "documents"),
        [
            ("", [""]),
            ("a b", ["a b"]),
            (f"a {EOT} b", ["a", "b"]),
            (f"a\n{EOT}  b {EOT}", ["a\n", " b"]),
            (EOT, [""]),
        ],
    )
    def test_documents_of_a_sample(self, text: str, documents: list[str]) -> None:
        assert documents_of(text, EOT) == documents
        assert documents_of(text, None) == [text]

    def test_it_reads_ahead_only_so_far(
        self, serve: Serve, connect: Connect, tokenizer_json: str
    ) -> None:
        server = serve(["word " * 100] * 50, ends=False)
        client = connect(server, batch_size=4)
        opened = client.open(plan=make_plan(tokenizer_json), split="train", batch=8, credit=2)
        next(opened)
        before = -1
        while before != server.num_requests:
            before = server.num_requests
            time.sleep(0.3)
        assert 1 < before <= 12


class TestHeldOut:
    """Text is cut out by its words."""

    HELD = " ".join(f"h{n}" for n in range(40))
    OTHER = "  ".join(f"o{n}" for n in range(RUN_WORDS))

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("", [""]),
            (OTHER, [OTHER]),
            (HELD, []),
            (HELD.replace(" ", "\n\t"), []),
            (" ".join(HELD.split()[5:]), []),
            (" ".join(HELD.split()[: RUN_WORDS - 1]), [" ".join(HELD.split()[: RUN_WORDS - 1])]),
            (f" {OTHER}\n{HELD}", [OTHER]),
            (f"{HELD} {OTHER} ", [OTHER]),
            (f"{OTHER} {HELD} {OTHER}", [OTHER, OTHER]),
            (f"{HELD} short {HELD}", []),
            (f"{HELD} {OTHER}\n\nend", [f"{OTHER}\n\nend"]),
        ],
    )
    def test_without(self, text: str, left: list[str]) -> None:
        held_out = HeldOut()
        assert held_out.without(text) == [text]
        held_out.add(["few words", self.HELD])
        held_out.add([])
        held_out.add(["z " * 50])
        assert held_out.without(text) == left


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 65_535), max_size=20), max_size=5)),
    sequence_tokens=st.integers(1, 9),
    batch=st.integers(1, 4),
)
def test_packing(documents: list[list[list[int]]], sequence_tokens: int, batch: int) -> None:
    packer = Packer(sequence_tokens=sequence_tokens, eot_id=9, dtype="<u2", batch=batch)
    packed = [part for group in documents for part in packer.add(group)]
    assert all(blocks.shape == (batch, sequence_tokens + 1) for blocks, _ in packed)
    assert all((lengths == sequence_tokens + 1).all() for _, lengths in packed)
    packed += packer.finish()
    text = [9, *(token for group in documents for ids in group for token in [*ids, 9])]
    if len(text) == 1:
        assert packed == []
        return
    assert joined(Batch(blocks, lengths, {}, {}) for blocks, lengths in packed) == text
    num_targets = sum(int((lengths - 1).sum()) for _, lengths in packed)
    assert num_targets == len(text) - 1
    assert {blocks.dtype for blocks, _ in packed} == {np.dtype("<u2")}
    assert packer.finish() == []
