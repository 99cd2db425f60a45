"""What `recorder` wrote down, read again."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Record:
    """What one process of `eirtrain` did."""

    validation_ids: list[str] = field(default_factory=list)
    """What it had held out; main process only."""
    texts: dict[str, str] = field(default_factory=dict)
    """All texts received, by id."""
    epochs: list[list[str]] = field(default_factory=list)
    """Ids that the dataset gave out after each connection; workers of the training only."""
    batches: list[list[str]] = field(default_factory=list)
    """Ids of the batches that were made."""
    num_messages: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By connection: `sent getData`, `received data` and so on."""

    def add_message(self, number: int, event: str, message: dict[str, Any]) -> None:
        """Takes note of a message of the connection of that number."""
        kind = message["type"]
        assert kind != "error", message
        self.num_messages[number][f"{event} {kind}"] += 1
        if kind == "setValidationIds":
            self.validation_ids = message["payload"]["validation_ids"]
        for sample in message["payload"] if kind == "data" else []:
            if sample != "terminate":
                text = sample["target_labels"]["text_output"]["text_output"]
                assert sample["inputs"] == {"text_output": text}, sample["sample_id"]
                assert self.texts.setdefault(sample["sample_id"], text) == text


def read_record(path: Path) -> Record:
    """The record of one process."""
    record = Record()
    numbers: dict[int, int] = {}
    for line in path.read_text().splitlines():
        found = json.loads(line)
        event = found["event"]
        if event == "begins":
            record.epochs.append([])
        elif event == "sample":
            record.epochs[-1].append(found["id"])
        elif event == "batch":
            record.batches.append(found["ids"])
        elif event in ("sent", "received"):
            message = found["message"]
            if (event, message["type"]) == ("sent", "handshake"):  # an object's id is used again
                numbers[found["connection"]] = len(numbers) + len(record.num_messages)
            record.add_message(numbers[found["connection"]], event, message)
    return record
