"""An embedded server that ends is started again where it was, and its clients go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from streamer_harness import epoch, sha256

from streamer.client import StreamClient
from streamer.embedded import EmbeddedStreamer


def test_clients_come_back_after_a_kill(
    corpus: Path, cache_dir: Path, plan: dict[str, Any], tokenizer_json: str, client: StreamClient
) -> None:
    client.upload_tokenizer(tokenizer_json)
    reference = sha256(epoch(client, plan, 2))
    with (
        EmbeddedStreamer([str(corpus)], cache_dir=cache_dir, token="secret") as server,
        StreamClient([server.url], token="secret") as own,
    ):
        own.upload_tokenizer(tokenizer_json)
        stream = own.open(plan=plan, split="train", epochs=1, batch=2, credit=1)
        batches = [next(stream)]
        first, url = server.process_id, server.url
        server.restart_if_ended()
        assert server.process_id == first
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        server.restart_if_ended()
        assert (server.url, server.process_id != first) == (url, True)
        batches += stream
        assert sha256(batches) == reference
