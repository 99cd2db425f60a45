"""The fields of a JSON object, taken one by one; all that is wrong is told at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from babygpt_exp.serving.errors import Refused


class Fields:
    """A JSON object of which each field is taken once; null stands for a field's default."""

    def __init__(self, data: bytes) -> None:
        """Refused for what is no JSON object."""
        try:
            found = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else str(error)
            raise Refused(400, f"the body is no JSON: {reason}") from error
        if not isinstance(found, dict):
            raise Refused(400, 'the body must be a JSON object, as {"prompt": "Once upon"}')
        self._left: dict[str, Any] = found
        self._problems: list[tuple[str, str]] = []
        self._taken: list[str] = []

    def take(self, name: str) -> Any:
        """A field's value; None without one."""
        self._taken.append(name)
        return self._left.pop(name, None)

    def refuse(self, name: str, reason: str) -> None:
        """Note that a field is wrong."""
        self._problems.append((name, reason))

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"{name} must be a number")
            return default
        try:
            return float(value)
        except OverflowError:
            self.refuse(name, f"{name} is too large")
            return default

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number between two."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"{name} must be a whole number from {least} to {most}")
            return default
        return value

    def flag(self, name: str) -> bool:
        """True or false, which is the default."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"{name} must be true or false")
        return value is True

    def string(self, name: str, default: str) -> str:
        """A text."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(name, f"{name} must be a string")
            return default
        return value

    def harmless(self, name: str, *allowed: Any) -> None:
        """A field of OpenAI's that does nothing here, and may only have values that do nothing."""
        value = self.take(name)
        if value is not None and value not in allowed:
            self.refuse(name, f"{name} is not supported; leave it out")

    def done(self) -> None:
        """Refused if a field was wrong, or is left that nobody knows."""
        for name in self._left:
            near = difflib.get_close_matches(name, self._taken, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.refuse(name[:100], f"{name[:100]} is no known field{hint}")
        if self._problems:
            reasons: Iterable[str] = (reason for _, reason in self._problems[:20])
            raise Refused(400, "; ".join(reasons), self._problems[0][0])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
