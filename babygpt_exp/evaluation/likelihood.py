"""Likelihoods of text: of documents as a whole, and of continuations of a context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from babygpt_exp.evaluation.figures import Evaluation
from babygpt_exp.evaluation.scoring import BATCH, Precision, score
from babygpt_exp.evaluation.text import PlainText
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
    plain, num_bytes = PlainText(tokenizer), 0

    def passages() -> Iterator[Passage]:
        nonlocal num_bytes
        for documents in texts:
            num_bytes += sum(len(document.encode()) for document in documents)
            for tokens in plain.encode(documents):
                yield Passage([plain.end_of_text, *tokens], first=1)

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
    plain = PlainText(tokenizer)
    passages = [continued(plain, *pair) for pair in pairs]
    return [(-found.nats, found.is_greedy) for found in score(model, passages, batch=batch)]


def continued(plain: PlainText, context: str, continuation: str) -> Passage:
    """The passage of a continuation, behind an end of text and its context."""
    before = context.rstrip()
    first, whole = plain.encode([before, context + continuation])
    # a token that reaches over the border belongs to the continuation
    num_before = min(len(first), max(0, len(whole) - 1)) if continuation else len(whole)
    return Passage([plain.end_of_text, *whole], first=1 + num_before)


def loglikelihood_rolling(
    model: Decoder,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    batch: int = BATCH,
) -> list[float]:
    """The logarithm of each text's probability, with windows as lm-eval has them."""
    plain = PlainText(tokenizer)
    passages = [Passage([plain.end_of_text, *tokens], first=1) for tokens in plain.encode(texts)]
    return [-found.nats for found in score(model, passages, batch=batch)]
