"""Instructions: prompts made by a template, and responses, which alone are learned.

A block of them is `EOT prompt EOT response EOT prompt EOT response EOT`, see `streamer.blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babygpt_exp.tokenizer import TextTokenizer
from streamer.sources.template import Template


def template_of(plan: Mapping[str, Any] | None) -> Template | None:
    """The template of a stream's prompts; None where it is of plain text.

    All sources of a streamer have the same.
    """
    sources = (plan or {}).get("sources") or [{}]
    pieces = sources[0].get("prompt")
    return None if pieces is None else Template(pieces)


def prompt_tokens(
    tokenizer: TextTokenizer, template: Template | None, text: str
) -> tuple[int, ...]:
    """The tokens that a text to go on from begins with: the end of the text before, and it.

    With a template `text` is what its first column holds, and the end of the prompt follows.
    """
    stop = tokenizer.end_of_text
    if template is None:
        return (stop, *tokenizer.encode(text))
    return (stop, *tokenizer.encode(template.fill({template.columns[0]: text})), stop)


def first_prompt(tokens: Sequence[int], end_of_text: int) -> list[int]:
    """The first prompt of a block, between the ends of text before and behind it."""
    ends = list(accumulate(int(token == end_of_text) for token in tokens))
    return list(tokens[: ends.index(2) + 1])


def is_in_response(tokens: NDArray[np.int64], end_of_text: int) -> NDArray[np.bool_]:
    """Whether the target of each input is a response's, its end included: (B, T) to (B, T)."""
    found: NDArray[np.bool_] = np.cumsum(tokens == end_of_text, axis=1) % 2 == 0
    return found


def count_cut(
    tokens: NDArray[np.unsignedinteger], lengths: NDArray[np.int32], end_of_text: int
) -> int:
    """Blocks (B, T + 1) that are full and end within a response, which did not fit."""
    return int(((lengths == tokens.shape[1]) & (tokens[:, -1] != end_of_text)).sum())
