"""A source as its user names it."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

ON_BAD_DOCUMENT = ("error", "skip")


@dataclass(frozen=True)
class SourceSpec:
    """One source of a mix, before anybody has looked at it."""

    address: str
    """A file, a folder or a glob, local or by URL (hf://, s3://, http://, https://)."""
    weight: float = 1.0
    """Share of the blocks that come from it, relative to the other sources' weights."""
    column: str = "text"
    """Column of a parquet file or field of a jsonl line that holds the text."""
    on_bad_document: str = "error"
    """What a document that cannot be read does: `error` ends the stream and names its place,
    `skip` leaves it out. Part of the plan, since it decides what is delivered."""


def split_weight(source: str) -> tuple[str, float]:
    """Address and weight of PATH_OR_URL[=WEIGHT]; 1 where none is given.

    A path that exists is no weight's, and neither is the value at the end of a URL's query.
    Raises ValueError for a weight that is not a finite number above 0.
    """
    address, equals, tail = source.rpartition("=")
    is_query = "://" in address and "?" in address and "=" not in re.split("[?&]", address)[-1]
    if not equals or is_query or os.path.exists(source):
        return source, 1.0
    try:
        weight = float(tail)
    except ValueError:
        return source, 1.0
    if not address or not math.isfinite(weight) or weight <= 0:
        raise ValueError(f"the weight in {source} must be a number above 0")
    return address, weight
