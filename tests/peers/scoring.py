"""What a text costs a model of ours, wherever it was cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer

from babygpt_exp.config import load
from babygpt_exp.model import IGNORE, Decoder, build_model
from babygpt_exp.tokenizer import TextTokenizer


def load_model(checkpoint: Path) -> tuple[Decoder, TextTokenizer]:
    """The model in a checkpoint, and its tokenizer."""
    saved = torch.load(checkpoint, weights_only=True)
    about = saved["babygpt"]
    config = load(OmegaConf.create(about["config"]))
    tokenizer = TextTokenizer(Tokenizer.from_str(about["tokenizer"]), about["end_of_text"])
    model = build_model(config.model, config.arch, tokenizer.vocab_size)
    weights = saved["state_dict"].items()
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights})
    return model.eval(), tokenizer


def windows(num_tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and first one that counts of the parts in which a long text is scored.

    Every token counts once; those behind the first part see at least half a context.
    """
    done = 0
    while done < num_tokens:
        end = min(num_tokens, done + (context // 2 if done else context))
        yield max(0, end - context), end, done
        done = end


@torch.no_grad()
def score(model: Decoder, tokenizer: TextTokenizer, texts: Sequence[str]) -> tuple[float, int]:
    """Nats and tokens of texts, each behind an end of text, in bfloat16 as it was trained."""
    nats, num_tokens = 0.0, 0
    for text in texts:
        tokens = torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)])
        num_tokens += len(tokens) - 1
        for start, end, first in windows(len(tokens) - 1, model.context):
            targets = tokens[start + 1 : end + 1].clone()
            targets[: first - start] = IGNORE
            with torch.autocast("cpu", torch.bfloat16):
                nats += float(model(tokens[None, start:end], targets[None]))
    return nats, num_tokens


def scores(nats: float, num_tokens: int, texts: Sequence[str]) -> dict[str, float]:
    """What the nats of texts mean."""
    num_bytes = sum(len(text.encode()) for text in texts)
    return {
        "nats_per_token": nats / num_tokens,
        "bytes_per_token": num_bytes / num_tokens,
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
