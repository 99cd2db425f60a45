"""The client of EIR's protocol: lines that break, servers that go, text that ends."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from eir_client_harness import Connect, Serve, failure, joined
from eir_reference_server import EirReferenceServer
from streamer_harness import FRACTION, SALT, make_plan

from streamer.client import Batch
from streamer.eir import conversation, source, stream, tape
from streamer.split import is_validation, split_documents

VALIDATION = {"fraction": FRACTION, "salt": SALT}


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
