"""The words and frames of `babygpt.stream.v2`, for both ends of a connection.

Control messages are JSON text. Data are binary frames: 4 bytes little-endian header length, a JSON
header padded with blanks so that the array begins at a multiple of 8 bytes, the array. The
header's last field, `crc32`, covers the header's bytes before it and then the array.
"""

from __future__ import annotations

import json
import struct
import zlib
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

MAX_TOKENIZER_BYTES = 16 << 20
MAX_CONTROL_BYTES = 64 << 10
MAX_BATCH_BYTES = 32 << 20
MAX_FRAME_BYTES = 64 << 20
MAX_CREDIT = 64
MAX_BATCH = 1 << 16
MAX_WORLD = 1 << 16
MAX_STREAMS = 16
MAX_REQUESTS = 16
MAX_CONNECTIONS = 256
MAX_ERRORS = 20
MAX_TEXT_BYTES = 8 << 20
MAX_TEXT_DOCUMENTS = 10_000
HEARTBEAT_SECONDS = 20.0
SEND_SECONDS = 30.0
HANDSHAKE_SECONDS = 10.0
PREPARING_SECONDS = 2.0


def limits() -> dict[str, int]:
    """The limits that a client is told."""
    return {
        "tokenizer_bytes": MAX_TOKENIZER_BYTES,
        "control_bytes": MAX_CONTROL_BYTES,
        "batch_bytes": MAX_BATCH_BYTES,
        "frame_bytes": MAX_FRAME_BYTES,
        "credit": MAX_CREDIT,
        "batch": MAX_BATCH,
        "streams": MAX_STREAMS,
        "connections": MAX_CONNECTIONS,
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


def decode_frame(frame: bytes) -> tuple[dict[str, Any], TokenArray, NDArray[np.int32]]:
    """The header, rows (B, T + 1) and lengths (B,) of a data frame; raises FrameError."""
    if len(frame) < 4:
        raise FrameError("a frame without header")
    (size,) = struct.unpack_from("<I", frame)
    text, body = frame[4 : 4 + size], memoryview(frame)[4 + size :]
    try:
        header = json.loads(text)
        if zlib.crc32(body, zlib.crc32(text[: text.rindex(_CRC)])) != header["crc32"]:
            raise FrameError("a frame whose checksum differs")
        num_rows, width = header["shape"]
        lengths = np.full(num_rows, width, np.int32)
        for row, length in header["short"]:
            lengths[row] = length
        rows = np.frombuffer(body, header["dtype"]).reshape(num_rows, width)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FrameError(f"a frame with a damaged header: {error}") from error
    return header, rows.copy(), lengths
