"""Writes down what `eirtrain` says, hears and trains on.

Each process appends to $INTEROP_RECORDS/<process id>.jsonl, one line an event. The workers of a
data loader are processes of their own, which import this module as it has their `collate`.

Nothing that `eirtrain` does is changed, but for this: it trains for a single epoch of a stream,
whatever `n_epochs` says. Where $INTEROP_KEEP_EPOCHS is set, `n_epochs` counts.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import eir.train
import websocket
from eir.data_load.data_streaming.streaming_dataset import StreamingDataset

_send, _receive = websocket.WebSocket.send, websocket.WebSocket.recv_data
_begin, _process = StreamingDataset.__iter__, StreamingDataset._process_sample
_collate = eir.train.consistent_nan_collate
_patch_configs = eir.train.patch_configs_for_local_data


def note(event: str, **fields: Any) -> None:
    line = json.dumps({"event": event, "seconds": time.time(), **fields}) + "\n"
    with Path(os.environ["INTEROP_RECORDS"], f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line)


def send(self: Any, payload: Any, *arguments: Any, **options: Any) -> Any:
    note("sent", connection=id(self), message=json.loads(payload))
    return _send(self, payload, *arguments, **options)


def receive(self: Any, *arguments: Any, **options: Any) -> Any:
    opcode, data = _receive(self, *arguments, **options)
    if opcode == websocket.ABNF.OPCODE_TEXT:
        note("received", connection=id(self), message=json.loads(data))
    return opcode, data


def begin(self: Any) -> Any:
    note("begins")
    return _begin(self)


def process(self: Any, sample: Any) -> Any:
    note("sample", id=sample.sample_id)
    return _process(self, sample)


def collate(batch: Any) -> Any:
    note("batch", ids=[item[2] for item in batch])
    return _collate(batch)


def patch_configs(*arguments: Any, **options: Any) -> Any:
    original, patched = _patch_configs(*arguments, **options)
    num_epochs = original.global_config.basic_experiment.n_epochs
    patched.global_config.basic_experiment.n_epochs = num_epochs
    return original, patched


websocket.WebSocket.send, websocket.WebSocket.recv_data = send, receive
StreamingDataset.__iter__, StreamingDataset._process_sample = begin, process
eir.train.consistent_nan_collate = collate
if "INTEROP_KEEP_EPOCHS" in os.environ:
    eir.train.patch_configs_for_local_data = patch_configs
