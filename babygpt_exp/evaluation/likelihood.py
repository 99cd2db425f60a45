"""Likelihoods of text: of documents as a whole, and of continuations of a context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from babygpt_exp.evaluation.figures import Evaluation
from babygpt_exp.evaluation.scoring import BATCH, Precision, score
from babygpt_exp.evaluation.windows import Passage
from babygpt_exp.model import Decoder
from babygpt_exp.tokenizer import TextTokenizer


def evaluate(
    model: Decoder,
    tokenizer: TextTokenizer,
    texts: Iterable[list[str]],
    *,
    batch: int = BATCH,
    stride: int | None = None,
    precision: Precision = "fp32",
) -> Evaluation:
    """Sums over documents, each by itself and from an end of text on; that itself is no target.

    `texts` gives documents some at a time.
    """
    num_bytes = 0

    def passages() -> Iterator[Passage]:
        nonlocal num_bytes
        for documents in texts:
            num_bytes += sum(len(document.encode()) for document in documents)
            for tokens in tokenizer.encode_all(documents):
                yield Passage([tokenizer.end_of_text, *tokens], first=1)

    scores = score(model, passages(), batch=batch, stride=stride, precision=precision)
    return Evaluation(
        nats=math.fsum(found.nats for found in scores),
        num_targets=sum(found.num_tokens for found in scores),
        text_bytes=num_bytes,
    )


def loglikelihood(
    model: Decoder,
    tokenizer: TextTokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    batch: int = BATCH,
) -> list[tuple[float, bool]]:
    """For each pair of a context and its continuation: the logarithm of the continuation's
    probability, and whether greedy decoding gives it.

    As lm-eval has it: both become tokens together, a space between them belongs to the
    continuation, and what does not fit before it is left out at its left.
    """
    passages = [continued(tokenizer, *pair) for pair in pairs]
    return [(-found.nats, found.is_greedy) for found in score(model, passages, batch=batch)]


def continued(tokenizer: TextTokenizer, context: str, continuation: str) -> Passage:
    """The passage of a continuation, behind an end of text and its context."""
    before = context.rstrip()
    first, whole = tokenizer.encode_all([before, context + continuation])
    # a token that reaches over the border belongs to the continuation
    num_before = min(len(first), max(0, len(whole) - 1)) if continuation else len(whole)
    return Passage([tokenizer.end_of_text, *whole], first=1 + num_before)


def loglikelihood_rolling(
    model: Decoder,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    batch: int = BATCH,
) -> list[float]:
    """The logarithm of each text's probability, with windows as lm-eval has them."""
    stop = tokenizer.end_of_text
    passages = [Passage([stop, *tokens], first=1) for tokens in tokenizer.encode_all(texts)]
    return [-found.nats for found in score(model, passages, batch=batch)]
