"""The words of EIR's protocol 1.0: one JSON object a text message, with a `type` and a `payload`.

A reply belongs to a request by its order alone, so that nothing may be sent that was not asked
for. What is too much for our server, and what a client is told:

| limit | value | answer |
|---|---|---|
| time until the handshake | 10 s | `error`, close 1008 |
| a handshake of another version, or none | | `error`, close 1002 |
| a message | 16 MiB | close 1009 |
| `batch_size` | 1 to 4,096 | `error` |
| text of one reply | 8 MiB, or one sample | fewer samples than asked for |
| `validation_ids` of one session, of all | 250,000, 1,000,000 | `error` |
| `?words=` and `?epochs=` of the URL | 100,000, 10,000 | `error`, close 1008 |
| sessions, and the length of a name | 64, 100 characters | `error`, close 1013 or 1008 |
| time that a client does not read | 30 s | cut off |
| errors of a connection, each of which takes 1 s | 20 | close 1008 |
"""

from __future__ import annotations

from typing import Any

PROTOCOL_VERSION = "1.0"
TERMINATE = "terminate"
"""In place of a sample: there are no more."""
OUTPUT_NAME = "text_output"
"""What our samples are called, as in EIR's own text streamer."""

MAX_MESSAGE_BYTES = 16 << 20
"""Of a client's: all validation ids come in one message."""
MAX_BATCH_SIZE = 4096
MAX_REPLY_CHARACTERS = 8 << 20
"""Of text; on the wire it is there twice."""
MAX_VALIDATION_IDS = 250_000
MAX_ALL_VALIDATION_IDS = 1_000_000
MAX_SESSIONS = 64
MAX_NAME_CHARACTERS = 100
MAX_ERRORS = 20
DEFAULT_WORDS = 512
MAX_WORDS = 100_000
MAX_EPOCHS = 10_000


def info_message() -> dict[str, Any]:
    """What we have: one text, of any length."""
    outputs = {OUTPUT_NAME: {"type": "sequence", "shape": None}}
    return {"type": "info", "payload": {"inputs": {}, "outputs": outputs}}
