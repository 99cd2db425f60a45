"""A source as its user names it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from streamer.sources.template import Template

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
    prompt: tuple[str, ...] | None = None
    """Pieces of a prompt's template, for instructions: a document is a prompt made of a row's
    columns and the response in `column` then. None where `column` is all there is."""

    @cached_property
    def template(self) -> Template | None:
        """The template of the prompts."""
        return None if self.prompt is None else Template(self.prompt)

    @property
    def num_parts(self) -> int:
        """Texts that a document is made of: itself, or prompt and response."""
        return 1 if self.prompt is None else 2

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        more = () if self.template is None else self.template.columns
        return tuple(dict.fromkeys((self.column, *more)))

    def parts(self, values: Mapping[str, str | None]) -> tuple[str, ...]:
        """The texts of a row's document; none where its text or response is null."""
        text = values[self.column]
        if text is None:
            return ()
        return (text,) if self.template is None else (self.template.fill(values), text)


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
