"""Numbers as a person likes to read them."""

from __future__ import annotations


def quantity(value: float) -> str:
    """A number of three digits: 999, 1.23 k, 45.6 M."""
    for unit in ("", " k", " M", " G", " T"):
        if value < 999.5 or unit == " T":
            break
        value /= 1000
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def size(num_bytes: float) -> str:
    """Bytes with a unit."""
    return quantity(num_bytes) + ("B" if num_bytes >= 999.5 else " B")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit."""
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    left, words = round(seconds), list[str]()
    for name, unit in units:
        count, left = divmod(left, unit)
        if count or words:
            words.append(f"{count} {name}" if count else "")
    return " ".join(words[:2]).strip() or "0 s"


def plural(count: int, singular: str, several: str = "") -> str:
    """A count and its noun."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"
