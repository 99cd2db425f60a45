"""The client of EIR's protocol: what such servers do to their clients, and what comes through."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from eir_reference_server import EOT, OUTPUT, EirReferenceServer, Traps, sample_of
from hypothesis import given
from hypothesis import strategies as st
from streamer_harness import FRACTION, SALT, make_plan
from tokenizers import Tokenizer

from streamer import transport
from streamer.access import TOKEN_VARIABLE
from streamer.client import Batch, StreamError
from streamer.eir import conversation, source, stream, tape
from streamer.eir.client import EirClient
from streamer.eir.held_out import RUN_WORDS, HeldOut
from streamer.eir.packing import Packer
from streamer.eir.samples import documents_of
from streamer.split import is_validation, split_documents

VALIDATION = {"fraction": FRACTION, "salt": SALT}
Serve = Callable[..., EirReferenceServer]
Connect = Callable[..., EirClient]


@pytest.fixture(scope="module")
def few(documents: list[str]) -> list[str]:
    """Enough documents for ten requests, with all the odd ones."""
    return documents[:70] + documents[-10:]


@pytest.fixture
def serve(few: list[str]) -> Iterator[Serve]:
    """Starts servers of the documents with traps."""
    started: list[EirReferenceServer] = []

    def start(texts: list[str] | None = None, **traps: Any) -> EirReferenceServer:
        server = EirReferenceServer(few if texts is None else texts, Traps(**traps))
        started.append(server.__enter__())
        return server

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def connect(tokenizer_json: str) -> Iterator[Connect]:
    """Clients that know the tokenizer."""
    made: list[EirClient] = []

    def make(server: EirReferenceServer | str, **options: Any) -> EirClient:
        url = server if isinstance(server, str) else server.url
        options = {"batch_size": 8, "deadline_seconds": 20, **options}
        made.append(EirClient(url, **options))
        made[-1].upload_tokenizer(tokenizer_json)
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def read(tokenizer_json: str) -> Callable[..., list[Batch]]:
    """All batches of a stream."""

    def batches(client: EirClient, split: str = "train", **options: Any) -> list[Batch]:
        options = {"plan": make_plan(tokenizer_json), "batch": 16, "epochs": 1, **options}
        return list(client.open(split=split, **options))

    return batches


@pytest.fixture
def expected(tokenizer_json: str, few: list[str]) -> Callable[..., list[int]]:
    """The tokens of texts of a split, as they should come."""

    def tokens(texts: list[str] | None = None, split: str = "train") -> list[int]:
        kept, _ = split_documents(few if texts is None else texts, split, FRACTION, SALT)
        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.encode_special_tokens = True
        eot = tokenizer.token_to_id(EOT)
        parts = [tokenizer.encode(text, add_special_tokens=False).ids for text in kept]
        return [eot, *(token for ids in parts for token in [*ids, eot])]

    return tokens


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(transport, "LONGEST_DELAY_SECONDS", 0.01)


def joined(batches: Iterable[Batch]) -> list[int]:
    """The one text that blocks were cut from; asserts that they overlap by one."""
    found: list[int] = []
    for batch in batches:
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True):
            assert 2 <= length <= len(row)
            if found:
                assert row[0] == found[-1]
            found += row[bool(found) : length]
    return found


def words_in(tokens: list[int], tokenizer_json: str) -> list[str]:
    text: str = Tokenizer.from_str(tokenizer_json).decode(tokens, skip_special_tokens=False)
    return text.replace(EOT, " ").split()


def runs_of(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[n : n + RUN_WORDS]) for n in range(len(words) - RUN_WORDS + 1)}


def failure(work: Callable[[], object]) -> StreamError:
    """The error of work; asserts that it is one line."""
    with pytest.raises(StreamError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value


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


class TestFaults:
    """Connections break and servers say odd things, and the training goes on."""

    @pytest.mark.usefixtures("quick_retries")
    @pytest.mark.parametrize("fault", ["close", "abort", "error", "unknown", "garbage"])
    def test_a_fault_is_survived(
        self,
        serve: Serve,
        connect: Connect,
        expected: Any,
        tokenizer_json: str,
        caplog: pytest.LogCaptureFixture,
        fault: str,
    ) -> None:
        server = serve(fault=lambda number: fault if number in (1, 4, 5) else None)
        opened = connect(server).open(
            plan=make_plan(tokenizer_json), split="train", batch=16, epochs=1
        )
        assert joined(opened) == expected()
        assert opened.reconnects == server.num_connections - 1 == 3
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if "text may be lost or come again" in line]) == 1

    @pytest.mark.parametrize("fault", ["chatter", "silence"])
    def test_what_is_no_fault(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, fault: str
    ) -> None:
        server = serve(fault=lambda number: fault if number < 2 else None, silent_seconds=0.2)
        assert joined(read(connect(server))) == expected()
        assert server.num_connections == 1

    def test_a_silence_that_is_too_long_ends_the_connection_only(
        self, serve: Serve, connect: Connect, read: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversation, "REPLY_SECONDS", 0.3)
        server = serve(fault=lambda number: "silence" if number == 2 else None, silent_seconds=30)
        client = connect(server)
        assert read(client)
        assert server.num_connections == 2

    @pytest.mark.usefixtures("quick_retries")
    @pytest.mark.parametrize("fault", ["error", "unknown", "garbage"])
    def test_errors_without_end(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, fault: str
    ) -> None:
        server = serve(fault=lambda number: fault if number > 1 else None)
        error = failure(lambda: read(connect(server)))
        assert error.code == "refused"
        assert f"did not answer {source.MAX_UNEXPECTED} times in a row" in str(error)
        assert server.num_requests == 2 + source.MAX_UNEXPECTED

    @pytest.mark.parametrize("fault", ["error", "close", "silence"])
    def test_no_progress_until_the_deadline(
        self, serve: Serve, connect: Connect, tokenizer_json: str, fault: str
    ) -> None:
        server = serve(fault=lambda number: fault if number else None, silent_seconds=60)
        client = connect(server, deadline_seconds=0.4)
        opened = client.open(plan=make_plan(tokenizer_json), split="train", batch=1)
        error = failure(lambda: list(opened))
        assert error.code == "deadline"
        assert server.url in str(error)
        assert failure(lambda: next(opened)) is error

    def test_no_server(self, connect: Connect, read: Any) -> None:
        client = connect("ws://127.0.0.1:1/ws", deadline_seconds=0.4)
        assert failure(lambda: read(client)).code == "deadline"

    def test_a_server_that_comes_later(
        self, connect: Connect, read: Any, expected: Any, few: list[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            port = reserved.getsockname()[1]
        server = EirReferenceServer(few, port=port)
        starting = threading.Timer(0.7, server.__enter__)
        starting.start()
        try:
            assert joined(read(connect(server))) == expected()
        finally:
            starting.join()
            server.__exit__()

    def test_a_reset_by_another_client(
        self,
        serve: Serve,
        connect: Connect,
        expected: Any,
        tokenizer_json: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = serve()
        client = connect(server, batch_size=8)
        opened = client.open(
            plan=make_plan(tokenizer_json), split="train", batch=1, credit=1, epochs=1
        )
        batches = [next(opened) for _ in range(20)]
        server.rewind()
        server.rewind()
        batches += opened
        assert joined(batches) == expected(server.sent)
        assert len(server.sent) > len(server.documents)
        lines = [record.getMessage() for record in caplog.records]
        assert [line for line in lines if "rewound" in line] == lines
        assert len(lines) == 1
        assert opened.reconnects == 0

    def test_a_reply_that_is_too_long(
        self, serve: Serve, connect: Connect, read: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversation, "MAX_MESSAGE_BYTES", 10_000)
        error = failure(lambda: read(connect(serve())))
        assert (error.code, error.field) == ("limit", "batch_size")


class TestEnds:
    """A server that ends its text, in each of the ways in which they do."""

    @pytest.mark.parametrize(
        ("after_end", "end", "confirms_first"),
        [
            ("close", ["terminate"], True),
            ("close", [], False),
            ("stay", ["terminate"], False),
            ("stay", [], True),
            ("data", ["terminate"], False),
            ("data", ["terminate"], True),
        ],
    )
    def test_it_is_rewound_where_that_is_allowed(
        self,
        serve: Serve,
        connect: Connect,
        read: Any,
        expected: Any,
        confirms_first: bool,
        end: list[str],
        after_end: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = serve(confirms_first=confirms_first, end=end, after_end=after_end)
        one = expected()
        assert joined(read(connect(server, may_reset=True), epochs=3)) == one + 2 * one[1:]
        assert server.num_resets == 2
        assert caplog.records == []

    @pytest.mark.usefixtures("quick_retries")
    def test_a_reset_is_asked_for_again_when_the_connection_breaks(
        self, serve: Serve, connect: Connect, read: Any, expected: Any
    ) -> None:
        server = serve(num_broken_resets=2)
        one = expected()
        assert joined(read(connect(server, may_reset=True), epochs=2)) == one + one[1:]
        assert server.num_resets == 1

    @pytest.mark.parametrize("after_end", ["close", "stay", "data"])
    def test_it_is_not_rewound_where_it_begins_again(
        self, serve: Serve, connect: Connect, read: Any, expected: Any, after_end: str
    ) -> None:
        server = serve(begins_again=True, after_end=after_end)
        one = expected()
        assert joined(read(connect(server, may_reset=True), epochs=2)) == one + one[1:]
        assert server.num_resets == 0

    def test_it_is_an_error_where_that_is_not_allowed(
        self, serve: Serve, connect: Connect, expected: Any, tokenizer_json: str
    ) -> None:
        server = serve()
        opened = connect(server).open(plan=make_plan(tokenizer_json), split="train", batch=1)
        batches: list[Batch] = []
        error = failure(lambda: batches.extend(opened))
        assert error.code == "empty_split"
        assert "data.reset=true" in str(error)
        got, one = joined(batches), expected()
        assert got == one[: len(got)]
        assert len(one) - len(got) < 64  # the rest waited for the next epoch
        assert server.num_resets == 0

    @pytest.mark.parametrize("may_reset", [True, False])
    def test_a_server_without_text(
        self, serve: Serve, connect: Connect, read: Any, may_reset: bool
    ) -> None:
        server = serve([])
        error = failure(lambda: read(connect(server, may_reset=may_reset), epochs=None))
        assert error.code == "empty_split"
        assert server.num_requests == server.num_connections == 1 + may_reset

    def test_a_split_without_text(self, serve: Serve, connect: Connect, read: Any) -> None:
        client = connect(serve(["one text"] * 5, begins_again=True))
        split = "train" if is_validation(b"one text", FRACTION, SALT) else "validation"
        error = failure(lambda: read(client, split))
        assert error.code == "empty_split"
        assert "none of the server's 5 samples" in str(error)

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_a_split_without_text_in_a_text_without_end(
        self,
        serve: Serve,
        connect: Connect,
        read: Any,
        split: str,
        monkeypatch: pytest.MonkeyPatch,
        documents: list[str],
    ) -> None:
        monkeypatch.setattr(stream, "MAX_FRUITLESS_SAMPLES", 1000)
        other = "validation" if split == "train" else "train"
        texts = split_documents(documents, other, FRACTION, SALT)[0]
        client = connect(serve(texts[:5], ends=False))
        assert failure(lambda: read(client, split)).code == "empty_split"

    def test_too_much_text_before_training(
        self, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tape, "MAX_KEPT_BYTES", 100_000)
        client = connect(serve(ends=False))
        error = failure(lambda: client.documents(split="train", max_documents=10**6, **VALIDATION))
        assert error.code == "limit"


LABELS = f"payload.1.target_labels.{OUTPUT}"
LABEL = f"{LABELS}.{OUTPUT}"


def payload(**changes: Any) -> str:
    """A data payload whose second sample has been changed; None takes a key away."""
    bad = {key: value for key, value in (sample_of("b", 1) | changes).items() if value is not None}
    return json.dumps([sample_of("a", 0), bad])


class TestRefusals:
    """What is wrong for good is one line that names it."""

    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ('"text"', "payload"),
            ("null", "payload"),
            ("[5]", "payload.0"),
            ('["terminate", "terminate"]', "payload.0"),
            ("[{}]", "payload.0.inputs"),
            (payload(inputs=[]), "payload.1.inputs"),
            (payload(sample_id=None), "payload.1.sample_id"),
            (payload(sample_id=7), "payload.1.sample_id"),
            (payload(target_labels=None), "payload.1.target_labels"),
            (payload(target_labels={}), LABELS),
            (payload(target_labels={OUTPUT: "b"}), LABELS),
            (payload(target_labels={OUTPUT: {OUTPUT: 5}}), LABEL),
            (payload(target_labels={OUTPUT: {OUTPUT: "\ud800"}}), LABEL),
            (payload(target_labels={OUTPUT: {OUTPUT: "b", "c": "d"}}), f"{LABELS}.c"),
            (payload(extra=1), "payload.1.extra"),
        ],
    )
    def test_a_sample_that_is_none(
        self, serve: Serve, connect: Connect, read: Any, sent: str, field: str
    ) -> None:
        server = serve(fault=lambda number: sent)
        error = failure(lambda: read(connect(server)))
        assert (error.code, error.field) == ("corrupt_frame", field)
        assert field in str(error)
        assert server.num_requests == 1

    @pytest.mark.parametrize(
        ("outputs", "output", "words"),
        [
            ({"t": {"type": "tabular"}}, None, "type sequence, which is text, is needed"),
            ({"t": {"type": "tabular"}}, "t", "the server offers t (tabular)"),
            ({OUTPUT: {"type": "sequence"}}, "other", "an output other of type sequence is needed"),
            ({}, None, "offers nothing"),
        ],
    )
    def test_no_text(
        self,
        serve: Serve,
        connect: Connect,
        read: Any,
        outputs: Any,
        output: str | None,
        words: str,
    ) -> None:
        error = failure(lambda: read(connect(serve(outputs=outputs), output=output)))
        assert (error.code, error.field) == ("refused", "output")
        assert words in str(error)

    @pytest.mark.parametrize("outputs", [None, [], {"t": 5}, {"t": {}}])
    def test_damaged_info(self, serve: Serve, connect: Connect, read: Any, outputs: Any) -> None:
        error = failure(lambda: read(connect(serve(outputs=outputs))))
        assert error.code == "corrupt_frame"
        assert error.field.startswith("payload.outputs")

    @pytest.mark.parametrize("output", [None, OUTPUT])
    def test_text_among_other_outputs(
        self, serve: Serve, connect: Connect, read: Any, output: str | None
    ) -> None:
        outputs = {"n": {"type": "tabular"}, OUTPUT: {"type": "sequence"}, "z": {"type": "array"}}
        assert read(connect(serve(outputs=outputs), output=output))

    def test_another_version(self, serve: Serve, connect: Connect, read: Any) -> None:
        error = failure(lambda: read(connect(serve(version="2.0"))))
        assert (error.code, error.field) == ("refused", "version")
        assert "Incompatible protocol version" in str(error)

    def test_another_server(self, serve: Serve, connect: Connect, read: Any) -> None:
        error = failure(lambda: read(connect(serve().url + "/elsewhere?token=secret")))
        assert error.code == "refused"
        assert "HTTP 404" in str(error)
        assert "?" not in str(error)

    def test_no_address(self, connect: Connect, read: Any) -> None:
        assert failure(lambda: read(connect("ws://"))).code == "refused"

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            ({"cursor": {"eir": {"epoch": 0, "samples": 5}}}, "refused", "start a new run, or"),
            ({"world": 2}, "refused", "knows no ranks"),
            ({"split": "test"}, "bad_request", "train, validation"),
            ({"batch": 0}, "bad_request", "at least 1"),
            ({"credit": 0}, "bad_request", "at least 1"),
        ],
    )
    def test_what_it_can_not_do(
        self,
        connect: Connect,
        tokenizer_json: str,
        options: dict[str, Any],
        code: str,
        words: str,
    ) -> None:
        options = {"plan": make_plan(tokenizer_json), "split": "train", "batch": 1, **options}
        error = failure(lambda: connect("ws://127.0.0.1:1/ws").open(**options))
        assert error.code == code
        assert words in str(error)

    def test_tokenizers(self, connect: Connect, tokenizer_json: str) -> None:
        client = connect("ws://127.0.0.1:1/ws")
        assert failure(lambda: client.upload_tokenizer("{}")).code == "bad_tokenizer"
        plan = make_plan(tokenizer_json)
        plan["tokenizer"]["hash"] = "0" * 64
        unknown = failure(lambda: client.open(plan=plan, split="train", batch=1))
        assert unknown.code == "unknown_tokenizer"

    def test_secrets_are_sent_and_not_shown(
        self, serve: Serve, connect: Connect, read: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
        server = serve(outputs={})
        for options, sent in (({}, "from-the-environment"), ({"token": "other"}, "other")):
            client = connect(f"{server.url}?key=secret", **options)
            error = failure(lambda client=client: read(client))
            assert server.authorization[-1] == f"Bearer {sent}"
            for secret in ("secret", sent):
                assert secret not in str(error)
        assert failure(lambda: connect(server, token="a b")).code == "unauthorized"

    @pytest.mark.parametrize("size", [0, -1, 513])
    def test_batch_size(self, size: int) -> None:
        with pytest.raises(ValueError, match="batch_size must be from 1 to 512"):
            EirClient("ws://127.0.0.1:1/ws", batch_size=size)


def ask(client: EirClient) -> list[str]:
    return client.documents(split="train", max_documents=1, **VALIDATION)


class TestClosing:
    """What is started is stopped, and who waits is told."""

    @pytest.mark.parametrize("split", ["train", "validation"])
    @pytest.mark.parametrize("what", ["stream", "client"])
    def test_a_waiting_consumer_is_told(
        self, serve: Serve, connect: Connect, tokenizer_json: str, split: str, what: str
    ) -> None:
        client = connect(serve(fault=lambda number: "silence", silent_seconds=60))
        opened = client.open(plan=make_plan(tokenizer_json), split=split, batch=1)
        closing = threading.Timer(0.15, (opened if what == "stream" else client).close)
        closing.start()
        assert failure(lambda: next(opened)).code == "closed"
        assert failure(lambda: next(opened)).code == "closed"
        closing.join()

    def test_nothing_is_left(
        self, serve: Serve, tokenizer_json: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = serve(ends=False)
        before = Counter(thread.name for thread in threading.enumerate())
        for _ in range(3):
            with EirClient(server.url, batch_size=4) as client:
                client.upload_tokenizer(tokenizer_json)
                opened = client.open(plan=make_plan(tokenizer_json), split="train", batch=2)
                assert next(opened).tokens.shape == (2, 65)
            client.close()
            for work in (opened.__next__, lambda client=client: ask(client)):
                assert failure(work).code == "closed"
        after = Counter(thread.name for thread in threading.enumerate())
        assert after == before
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_an_ended_stream_stays_ended(
        self, serve: Serve, connect: Connect, tokenizer_json: str
    ) -> None:
        client = connect(serve())
        opened = client.open(plan=make_plan(tokenizer_json), split="train", batch=1, epochs=1)
        assert list(opened)
        assert list(opened) == []
        opened.close()
        assert list(opened) == []


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
