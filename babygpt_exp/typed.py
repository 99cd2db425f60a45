"""Plain nested values into dataclasses, with every problem found named at once.

A key that a dataclass does not have is refused with the nearest one that it has, however
the key came into the config; so are values of another type.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint that names the choice closest to a mistyped word, or else all of them."""
    prefix, _, last = word.rpartition(".")

    def likeness(choice: str) -> float:
        other_prefix, _, other_last = choice.rpartition(".")
        alike = difflib.SequenceMatcher(None, last, other_last).ratio()
        return alike + 0.2 * (prefix == other_prefix)

    choices = sorted(choices)
    best = max(choices, key=likeness)
    if likeness(best) >= 0.7:
        return f"did you mean '{best}'?"
    near = [choice for choice in choices if choice.rpartition(".")[0] == prefix] or choices
    return f"there are: {', '.join(near)}"


def build(kind: type[Any], values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """An instance of dataclass `kind` from plain values, or None after adding to `problems`."""
    hints = get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    before = len(problems)
    for key in values:
        if key not in names:
            hint = nearest(f"{prefix}{key}", (f"{prefix}{name}" for name in names))
            problems.append(f"unknown key '{prefix}{key}'; {hint}")
    arguments = {}
    for name in names & values.keys():
        try:
            arguments[name] = convert(values[name], hints[name])
        except TypeError as error:
            problems.append(f"{prefix}{name}={values[name]!r} {error}".replace("'", ""))
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default is dataclasses.MISSING:
            problems.append(f"{prefix}{field.name} is missing")
    if len(problems) > before:
        return None
    try:
        return kind(**arguments)
    except ValueError as error:
        problems.append(str(error))
        return None


def convert(value: Any, hint: Any) -> Any:
    """A value as the type that a field asks for; TypeError says what it must be."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return convert_any(value, get_args(hint))
    if origin is Literal:
        if any(type(value) is type(option) and value == option for option in get_args(hint)):
            return value  # 1 is not True
        raise TypeError(f"must be one of: {', '.join(map(str, get_args(hint)))}")
    if origin in (list, tuple):
        return convert_sequence(value, hint)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise TypeError("must be a finite number")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise TypeError(f"must be {words[hint]}")
    return value


def convert_any(value: Any, hints: Iterable[Any]) -> Any:
    """A value as the first of several types that takes it."""
    reasons: dict[str, None] = {}
    for hint in hints:
        if hint is types.NoneType:
            if value is None:
                return None
            continue
        try:
            return convert(value, hint)
        except TypeError as error:
            reasons[str(error)] = None
    raise TypeError(" or ".join(reasons))


def convert_sequence(value: Any, hint: Any) -> list[Any] | tuple[Any, ...]:
    """A list as list[X] or as a tuple of fixed length."""
    if not isinstance(value, list):
        raise TypeError("must be a list, as in '[a, b]'")
    inner = get_args(hint)
    if get_origin(hint) is list:
        return [convert(item, inner[0]) for item in value]
    if len(value) != len(inner):
        raise TypeError(f"must have {len(inner)} items")
    return tuple(convert(item, kind) for item, kind in zip(value, inner, strict=True))


def refuse(asked: object, rules: dict[str, tuple[bool, str]]) -> None:
    """ValueError that names every field that breaks its rule."""
    problems = [
        f"{name}={getattr(asked, name)} must be {what}"
        for name, (holds, what) in rules.items()
        if not holds
    ]
    if problems:
        raise ValueError("; ".join(problems))
