"""The words, frames and limits of `babygpt.stream.v2`, for both ends of a connection.

Control messages are JSON text. Data are binary messages of one or more frames, end to end. A frame
is 4 bytes little-endian header length, a JSON header padded with blanks so that the array begins at
a multiple of 8 bytes of the frame, the array. The header's last field, `crc32`, covers the header's
bytes before it and then the array.

What is too much, and what a client is told. Limits with a name may be set by the operator, as in
`--limit connections=1000`; the others are the protocol's own.

| limit | value | answer |
|---|---|---|
| no token, or a wrong one | | HTTP 401 |
| `connections`, `connections_per_address` | 256, 128 | HTTP 503 with Retry-After |
| `unfinished` TCP connections without a request | 1,024 | the oldest is cut off |
| `handshake_seconds` until a WebSocket, or the end of a page | 10 s | cut off |
| a request that is no HTTP, or with a header above 8,190 bytes | | HTTP 400 |
| `failures_per_second` of one address, `failures_at_once` | 20, 100 | its next ones wait |
| a subprotocol that is unknown | | `bad_request`, close 1002 |
| frames against RFC 6455 | | close 1002 |
| a binary message | | close 1003 |
| text that is no UTF-8 | | close 1007 |
| a message above 2 x `tokenizer_bytes`, in one piece or many | 32 MiB | close 1009 |
| a control message above `control_bytes` | 64 KiB | `limit` |
| a tokenizer above `tokenizer_bytes` | 16 MiB | `limit` |
| JSON that is none, too deep, or long and with lists | | `bad_request` |
| `streams` of a connection | 16 | `limit`, field `stream` |
| `requests` of a connection at once | 16 | `busy`, to be tried again |
| batch, world, credit of one message | 65,536, 65,536, 64 | `bad_request` and the field |
| bytes of a rank's part of a batch | 32 MiB | `limit`, field `batch` |
| credit in sum | 64 | `limit`, field `batches` |
| bytes, documents of a page of text | 8 MiB, 10,000 | `bad_request` and the field |
| bytes of one document, as `text` sends it | 56 MiB | `limit`, field `max_bytes` |
| `errors` of a connection | 20 | close 1008 |
| `send_seconds` that a client does not read | 30 s | cut off |
| `heartbeat_seconds` without a sign of life, one and a half times | 20 s | cut off |
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.tokens import TokenArray

SUBPROTOCOL = "babygpt.stream.v2"
PATH = "/ws"

ERROR_CODES = (
    "bad_request",  # a field is missing, of another type, out of range or unknown
    "bad_tokenizer",  # an upload that is no tokenizer
    "unknown_tokenizer",  # to be uploaded first; a restarted server has forgotten it
    "plan_mismatch",  # other data, tokenizer or settings than the plan was made with
    "out_of_range",  # a cursor beyond the end of its group or epoch
    "empty_split",  # no block at all, so that an endless stream would be silent
    "source",  # a file cannot be read, or changed under the server
    "limit",  # larger than this server allows
    "busy",  # too much at once; later or elsewhere
    "internal",  # a bug; the server's log has the traceback
)

_CRC = b',"crc32":'
_DTYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "<u2": np.dtype("<u2"),
    "<u4": np.dtype("<u4"),
}

MAX_TOKENIZER_BYTES = 16 << 20
MAX_CONTROL_BYTES = 64 << 10
MAX_BATCH_BYTES = 32 << 20
MAX_FRAME_BYTES = 64 << 20
MAX_CREDIT = 64
MAX_BATCH = 1 << 16
MAX_WORLD = 1 << 16
MAX_ERRORS = 20
MAX_TEXT_BYTES = 8 << 20
MAX_TEXT_DOCUMENTS = 10_000
HEARTBEAT_SECONDS = 20.0
SEND_SECONDS = 30.0
PREPARING_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """What a server allows, as far as its operator may say otherwise."""

    connections: int = 256
    """WebSockets at once."""
    connections_per_address: int = 128
    """WebSockets at once of one address: 64 ranks behind one router have two each."""
    unfinished: int = 1024
    """TCP connections that have not become a WebSocket yet; the oldest makes room."""
    handshake_seconds: float = 10.0
    """Time from a TCP connection to its WebSocket, or to the end of its page."""
    failures_per_second: float = 20.0
    """Connections of one address that may come to nothing; further ones have to wait."""
    failures_at_once: int = 100
    """The same before anyone has to wait: a cluster that restarts is no attack."""
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    """Silence after which a client is asked for a sign of life, due within half that time."""
    send_seconds: float = SEND_SECONDS
    """Time that one frame may take; by then the client has stopped to read."""
    control_bytes: int = MAX_CONTROL_BYTES
    """Length of a message that is no tokenizer."""
    tokenizer_bytes: int = MAX_TOKENIZER_BYTES
    """Length of a tokenizer."""
    streams: int = 16
    """Streams of one connection."""
    requests: int = 16
    """Requests of one connection that are being answered."""
    errors: int = MAX_ERRORS
    """Errors after which a connection is closed."""

    def __post_init__(self) -> None:
        bad = [
            f"limit {name} must be above 0" for name, value in asdict(self).items() if not value > 0
        ]
        if bad:
            raise ValueError("; ".join(bad))

    @property
    def message_bytes(self) -> int:
        """A tokenizer inside JSON, every second character of which may be escaped."""
        return 2 * self.tokenizer_bytes

    def payload(self) -> dict[str, int]:
        """The limits that a client is told."""
        return {
            "tokenizer_bytes": self.tokenizer_bytes,
            "control_bytes": self.control_bytes,
            "batch_bytes": MAX_BATCH_BYTES,
            "frame_bytes": MAX_FRAME_BYTES,
            "credit": MAX_CREDIT,
            "batch": MAX_BATCH,
            "streams": self.streams,
            "requests": self.requests,
            "connections": self.connections,
            "connections_per_address": self.connections_per_address,
            "text_bytes": MAX_TEXT_BYTES,
            "text_documents": MAX_TEXT_DOCUMENTS,
        }


class FrameError(Exception):
    """A binary frame that is not whole."""


def encode_frame(
    stream: int,
    start: dict[str, object],
    following: dict[str, object],
    rows: TokenArray,
    lengths: NDArray[np.int32],
) -> bytes:
    """A data frame of `rows` (B, T + 1) with `lengths` (B,), of which only the short are told."""
    body = rows.tobytes()
    (short,) = np.nonzero(lengths < rows.shape[1])
    header = json.dumps(
        {
            "stream": stream,
            "start": start,
            "next": following,
            "dtype": rows.dtype.str,
            "shape": rows.shape,
            "short": [[int(row), int(lengths[row])] for row in short],
        },
        separators=(",", ":"),
    ).encode()[:-1]
    header += b"%b%d}" % (_CRC, zlib.crc32(body, zlib.crc32(header)))
    size = -(-(4 + len(header)) // 8) * 8 - 4
    return b"".join((struct.pack("<I", size), header.ljust(size), body))


Frame = tuple[dict[str, Any], TokenArray, NDArray[np.int32]]
"""The header, rows (B, T + 1) and lengths (B,) of a data frame."""


def decode_frames(message: bytes) -> Iterator[Frame]:
    """The frames of a message; raises FrameError at the first that is damaged."""
    position = 0
    while position < len(message) or not position:
        if len(message) < position + 4:
            raise FrameError("a frame without header")
        (size,) = struct.unpack_from("<I", message, position)
        text = message[position + 4 : position + 4 + size]
        start = position + 4 + size
        try:
            header = json.loads(text)
            num_rows, width = header["shape"]
            dtype = _DTYPES[header["dtype"]]
            position = start + num_rows * width * dtype.itemsize
            body = memoryview(message)[start:position]
            if zlib.crc32(body, zlib.crc32(text[: text.rindex(_CRC)])) != header["crc32"]:
                raise FrameError("a frame whose checksum differs")
            lengths = np.full(num_rows, width, np.int32)
            for row, length in header["short"]:
                lengths[row] = length
            rows = np.frombuffer(body, dtype).reshape(num_rows, width)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FrameError(f"a frame with a damaged header: {error}") from error
        yield header, rows.copy(), lengths
