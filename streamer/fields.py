"""Reading the fields of a message that a stranger sent: each is checked, or named in the error."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.errors import RequestError


class Fields:
    """The fields of one JSON object; `path` is its own dotted name, "" at the top."""

    def __init__(self, value: object, path: str = "") -> None:
        self.path = path
        if not isinstance(value, dict):
            raise bad_field(path or "message", f"must be an object, not {kind(value)}")
        self._values: dict[str, object] = dict(value)

    def name(self, key: str) -> str:
        """The dotted name of a field."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(key) is not None

    def take(self, key: str) -> object:
        """The raw value of a field that must be there; every field is taken once."""
        if key not in self._values:
            raise bad_field(self.name(key), "is missing")
        return self._values.pop(key)

    def discard(self, key: str) -> None:
        """Leaves a field out of account."""
        self._values.pop(key, None)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad_field(self.name(key), f"must be an integer, not {kind(value)}")
        if not low <= value <= high:
            raise bad_field(self.name(key), f"must be from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number from `low` to `high`, both included."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad_field(self.name(key), f"must be a number, not {kind(value)}")
        if not low <= value <= high:  # false for NaN
            raise bad_field(self.name(key), f"must be from {low} to {high}")
        return float(value)

    def string(self, key: str, max_bytes: int) -> str:
        """A string of at most `max_bytes` UTF-8 bytes."""
        value = self.take(key)
        if not isinstance(value, str):
            raise bad_field(self.name(key), f"must be a string, not {kind(value)}")
        try:
            num_bytes = len(value.encode())
        except UnicodeEncodeError as error:
            raise bad_field(self.name(key), "holds half a surrogate pair") from error
        if num_bytes > max_bytes:
            raise bad_field(self.name(key), f"must have at most {max_bytes} bytes")
        return value

    def choice(self, key: str, options: Sequence[str]) -> str:
        """One of a few words."""
        value = self.take(key)
        if not isinstance(value, str) or value not in options:
            raise bad_field(self.name(key), f"must be one of {', '.join(options)}")
        return value

    def hexadecimal(self, key: str, num_digits: int) -> str:
        """Lower-case hexadecimal digits, exactly `num_digits`."""
        value = self.string(key, num_digits)
        if len(value) != num_digits or any(digit not in "0123456789abcdef" for digit in value):
            raise bad_field(self.name(key), f"must be {num_digits} lower-case hexadecimal digits")
        return value

    def mapping(self, key: str) -> Fields:
        """An object, to be read in its turn."""
        return Fields(self.take(key), self.name(key))

    def sequence(self, key: str) -> list[object]:
        """An array."""
        value = self.take(key)
        if not isinstance(value, list):
            raise bad_field(self.name(key), f"must be an array, not {kind(value)}")
        return value

    def done(self) -> None:
        """Refuses whatever has not been taken."""
        for key in self._values:
            raise bad_field(self.name(key), "is not a field of this message")


def bad_field(field: str, message: str) -> RequestError:
    """The error for a field that does not hold what it should."""
    return RequestError("bad_request", field[:200], f"{field[:200]} {message}")


def kind(value: object) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")
