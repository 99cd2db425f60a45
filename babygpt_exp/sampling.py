"""Drawing text from a model: filters of logits as pure functions, and the loop that uses them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from babygpt_exp.model import Cache, Decoder


@dataclass
class SamplingConfig:
    """How samples are drawn during training."""

    num_auto: int
    """Samples a round that start from validation text, of kind `auto`."""
    prompt_tokens: int
    """Tokens of validation text that such a sample starts from."""
    max_new_tokens: int
    """Most tokens to add to a prompt; the end of text ends it earlier."""
    temperature: float
    """Logits are divided by it; 0 takes the likeliest token always."""
    top_k: int
    """Draw from the likeliest k tokens; 0 draws from all."""

    def __post_init__(self) -> None:
        problems = [
            f"sampling.{name}={value} must not be negative"
            for name, value in vars(self).items()
            if value < 0
        ]
        if self.prompt_tokens < 1 or self.max_new_tokens < 1:
            problems.append("sampling.prompt_tokens and max_new_tokens must be at least 1")
        if problems:
            raise ValueError("; ".join(problems))


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits (..., V) with all but the k largest at minus infinity; 0 keeps all."""
    if top_k == 0 or top_k >= logits.size(-1):
        return logits
    smallest = logits.topk(top_k).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def draw(logits: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> Tensor:
    """A token for each row of logits (B, V); shape (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    chances = keep_top_k(logits / sampling.temperature, sampling.top_k).softmax(-1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)


@torch.no_grad()
def generate(
    model: Decoder, prompt: list[int], stop: int, sampling: SamplingConfig, seed: int
) -> list[int]:
    """Tokens that the model adds to a prompt, up to the token `stop`, which is left out.

    A text longer than the context goes on from its last half. Draws depend on the seed alone.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    text = list(prompt)
    cache, fresh = Cache(model.context), text[-model.context :]
    for _ in range(sampling.max_new_tokens):
        if cache.length + len(fresh) > model.context:
            cache, fresh = Cache(model.context), text[-model.context // 2 :]
        tokens = torch.tensor([fresh], device=device)  # (1, T)
        logits = model.logits(model.hidden(tokens, cache)[:, -1])  # (1, V)
        token = int(draw(logits, sampling, generator))
        if token == stop:
            break
        text.append(token)
        fresh = [token]
    return text[len(prompt) :]
