"""The client of EIR's protocol: what it refuses, and how it is closed."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from typing import Any

import pytest
from eir_client_harness import Connect, Serve, failure
from eir_reference_server import OUTPUT, sample_of
from streamer_harness import FRACTION, SALT, make_plan

from streamer.access import TOKEN_VARIABLE
from streamer.eir.client import EirClient

VALIDATION = {"fraction": FRACTION, "salt": SALT}
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
