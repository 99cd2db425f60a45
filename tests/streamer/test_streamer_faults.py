"""Faults: whatever happens to servers and clients, the stream is the undisturbed one."""

from __future__ import annotations

import ctypes
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Toxics
from streamer_harness import ServerProcess, epoch, sha256

from streamer.client import StreamClient, StreamError

Start = Callable[..., ServerProcess]
Harm = Callable[[int], Toxics]
HARMLESS = Toxics()
AWAY_SECONDS = 1.0
"""For which a server is not there: several tries to connect."""


class TestServers:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_one_that_comes_back(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        number: int,
    ) -> None:
        servers = [start_server(corpus)]
        with StreamClient([servers[0].url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = []
            for index, batch in enumerate(stream):
                batches.append(batch)
                if index in (5, 30):
                    servers[-1].signal(number)
                    assert servers[-1].wait() == (0 if number == signal.SIGTERM else -number)
                    time.sleep(AWAY_SECONDS if index == 5 and number == signal.SIGKILL else 0)
                    servers.append(start_server(corpus, port=servers[0].port))
            assert sha256(batches) == reference
            assert stream.reconnects == 2

    def test_two_of_which_one_is_killed_again_and_again(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
    ) -> None:
        source = random.Random(3)
        servers = [start_server(corpus), start_server(corpus)]
        urls = [server.url for server in servers]
        with StreamClient(urls, deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = []
            for index, batch in enumerate(stream):
                batches.append(batch)
                if index % 100 == 50 and index < 500:
                    which = source.randrange(2)
                    servers[which].kill()
                    batches.append(next(stream))
                    servers[which] = start_server(corpus, port=servers[which].port)
            assert sha256(batches) == reference
            assert stream.reconnects >= 1

    def test_a_stopped_one_is_left_for_another(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("streamer.transport.HEARTBEAT_SECONDS", 1.0)
        servers = [start_server(corpus), start_server(corpus)]
        urls = [server.url for server in servers]
        with StreamClient(urls, deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=2)
            batches = [next(stream) for _ in range(9)]
            servers[0].signal(signal.SIGSTOP)
            assert sha256([*batches, *stream]) == reference
            assert stream.reconnects >= 1

    def test_an_absent_one_that_comes(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        starting = threading.Timer(AWAY_SECONDS, start_server, (corpus,), {"port": port})
        starting.start()
        with StreamClient([f"ws://127.0.0.1:{port}/ws"], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            assert len(epoch(client, plan, 256)) > 1
        starting.join()

    def test_an_absent_one_is_waited_for_until_the_deadline(self, plan: dict[str, Any]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
        with StreamClient([url], deadline_seconds=1.0) as client:
            began = time.monotonic()
            for call in (client.info, lambda: client.open(plan=plan, split="train", batch=1)):
                with pytest.raises(StreamError, match="no progress for 1") as caught:
                    call()
                assert caught.value.code == "deadline"
                assert url in str(caught.value)
                assert "attempts failed" in str(caught.value)
                assert "\n" not in str(caught.value)
            assert time.monotonic() - began >= 2

    def test_a_silent_one_ends_at_the_deadline(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        server = start_server(corpus)
        with StreamClient([server.url], deadline_seconds=1.5) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, credit=2)
            next(stream)
            time.sleep(2)  # nothing is owed while nothing is taken, so that no deadline passes
            next(stream)
            server.signal(signal.SIGSTOP)
            with pytest.raises(StreamError) as caught:
                for _ in stream:
                    pass
            assert caught.value.code == "deadline"
            server.signal(signal.SIGCONT)

    @pytest.mark.parametrize("url", ["http//nowhere", "ws://127.0.0.1:PORT/wrong"])
    def test_a_wrong_address_is_refused_at_once(self, server: ServerProcess, url: str) -> None:
        client = StreamClient([url.replace("PORT", str(server.port))])
        with client, pytest.raises(StreamError) as caught:
            client.info()
        assert caught.value.code == "refused"

    def test_other_data_after_a_reconnect_is_refused(
        self,
        start_server: Start,
        tmp_path: Path,
        corpus: Path,
        proxied: Any,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
    ) -> None:
        shutil.copytree(corpus, tmp_path / "corpus")
        proxy = proxied(ports=[start_server(tmp_path / "corpus").port])
        with StreamClient([proxy.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, credit=1)
            next(stream)
            path = tmp_path / "corpus" / "a.parquet"
            pq.write_table(pa.table({"text": ["other"] * 9}), path)
            proxy.cut()
            with pytest.raises(StreamError) as caught:
                for _ in stream:
                    pass
            assert caught.value.code == "plan_mismatch"
            assert caught.value.field == "sources.0.fingerprint"


class TestClients:
    def test_a_stalled_one_does_not_hurt_another(
        self, client: StreamClient, plan: dict[str, Any], reference: str
    ) -> None:
        stalled = [client.open(plan=plan, split="train", batch=64, credit=64) for _ in range(4)]
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        for stream in stalled:
            stream.close()

    def test_one_that_never_reads_does_not_hurt_another(
        self, server: ServerProcess, client: StreamClient, plan: dict[str, Any], reference: str
    ) -> None:
        request = (
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Protocol: babygpt.stream.v2\r\n\r\n"
        )
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for line in lines:
            line.sendall(request.encode())
        assert sha256(epoch(client, plan, 3, epochs=2)) == reference
        for line in lines:
            line.close()

    def test_a_slow_trainer_costs_the_server_its_credit_only(
        self, start_server: Start, corpus: Path, plan: dict[str, Any], tokenizer_json: str
    ) -> None:
        """Each of four streams is owed up to 8 batches of 0.5 MB."""
        server = start_server(corpus)
        status = Path(f"/proc/{server.process.pid}/status")

        def resident_bytes() -> int:
            (line,) = (x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
            return int(line.split()[1]) * 1024

        with StreamClient([server.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            epoch(client, plan, 4096, epochs=8, credit=8)
            before, largest = resident_bytes(), 0
            streams = [
                client.open(plan=plan, split="train", batch=4096, credit=8) for _ in range(4)
            ]
            for _ in range(10):
                for stream in streams:
                    next(stream)
                time.sleep(0.2)
                largest = max(largest, resident_bytes() - before)
        assert largest < 4 * (8 + 1) * 4096 * 65 * 2

    def test_one_that_computes_long_without_letting_go(
        self,
        start_server: Start,
        corpus: Path,
        plan: dict[str, Any],
        tokenizer_json: str,
        reference: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Both sides' heartbeats fail while no other thread of the client can run."""
        monkeypatch.setattr("streamer.transport.HEARTBEAT_SECONDS", 1.0)
        server = start_server(corpus, "--limit=heartbeat_seconds=0.5")
        with StreamClient([server.url], deadline_seconds=30) as client:
            client.upload_tokenizer(tokenizer_json)
            stream = client.open(plan=plan, split="train", batch=3, epochs=2, credit=4)
            batches = [next(stream) for _ in range(9)]
            ctypes.PyDLL(None).sleep(2)
            assert sha256([*batches, *stream]) == reference
