"""The two kinds of error that a user of the streamer meets, each one line."""

from __future__ import annotations


class SourceError(Exception):
    """A source that cannot be listed or read; the message says what to do about it.

    retry: whether the same may succeed later, since a network or a store was to blame.
    """

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.retry = retry


class RequestError(Exception):
    """A request that is refused.

    code: one of the words in protocol.ERROR_CODES.
    field: dotted name of the offending field, "" where no single one is to blame.
    retry: whether the same request may succeed later or elsewhere.
    """

    def __init__(self, code: str, field: str, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.retry = retry

    def payload(self) -> dict[str, object]:
        """The JSON object that the client is sent."""
        return {
            "op": "error",
            "code": self.code,
            "field": _printable(self.field),
            "message": _printable(one_line(str(self))),
            "retry": self.retry,
        }


def one_line(message: str) -> str:
    """`message` with line breaks and runs of blanks made single spaces, at most 500 characters."""
    joined = " ".join(message.split())
    return joined if len(joined) <= 500 else joined[:497] + "..."


def _printable(text: str) -> str:
    """`text` without the half surrogate pairs that JSON may smuggle in and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
