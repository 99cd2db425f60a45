"""What a server of EIR's protocol says that it has, and the texts in what it sends."""

from __future__ import annotations

import re

from streamer.eir.messages import TERMINATE
from streamer.errors import RequestError
from streamer.fields import Fields, bad_field, kind
from streamer.transport import StreamError

MAX_TEXT_BYTES = 64 << 20


def text_output(payload: object, wanted: str | None) -> str:
    """The output of an `info` payload that is text: `wanted`, or else the first.

    Raises RequestError for a payload that is none, StreamError where there is no such output.
    """
    outputs = Fields(payload, "payload").take("outputs")
    if not isinstance(outputs, dict):
        raise bad_field("payload.outputs", f"must be an object, not {kind(outputs)}")
    types: dict[str, str] = {
        str(name): Fields(value, f"payload.outputs.{name}").string("type", 100)
        for name, value in outputs.items()
    }
    texts = [name for name in types if types[name] == "sequence" and wanted in (None, name)]
    if texts:
        return texts[0]
    offered = ", ".join(f"{name} ({types[name]})" for name in types) or "nothing"
    needed = "of type sequence, which is text," if wanted is None else f"{wanted} of type sequence"
    message = f"an output {needed} is needed; the server offers {offered}"
    raise StreamError("refused", "output", message)


def sample_texts(payload: object, output: str) -> list[str]:
    """The text of each sample of a `data` payload; none where the server has come to its end.

    Raises RequestError that names the field of a sample that is none.
    """
    if not isinstance(payload, list):
        raise bad_field("payload", f"must be an array, not {kind(payload)}")
    if payload == [TERMINATE]:
        return []
    return [_text(Fields(item, f"payload.{n}"), output) for n, item in enumerate(payload)]


def _text(sample: Fields, output: str) -> str:
    sample.mapping("inputs")  # of a text that is continued they hold the text again
    sample.string("sample_id", 4096)
    labels = sample.mapping("target_labels").mapping(output)
    sample.done()
    text = labels.string(output, MAX_TEXT_BYTES)
    labels.done()
    return text


def documents_of(text: str, separator: str | None) -> list[str]:
    """The documents in a sample, between which the server writes `separator` as a word."""
    if not separator:
        return [text]
    return [part for part in re.split(f" ?{re.escape(separator)} ?", text) if part] or [""]


def damaged(name: str, error: RequestError) -> StreamError:
    """What a user is told of a message that no other connection would cure."""
    return StreamError(
        "corrupt_frame", error.field, f"{name} sent what EIR's protocol does not allow: {error}"
    )
