"""`arch=gpt2`: the block of GPT-2, as nanoGPT trains it.

LayerNorm, GELU, learned positions, biases as a switch, an input embedding tied to the head.
(https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)
Read it from the bottom: GPT2, Block, MLP, Attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.cache import Place
from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.decoder import Decoder
from babygpt_exp.model.parts import attend, learned_positions, split_heads


@dataclass
class GPT2Config(ArchConfig):
    """Switches of the GPT-2 block."""

    bias: bool
    """Biases in linear layers and norms: true as GPT-2 has it, false as nanoGPT trains it."""


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, model: ModelConfig, arch: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, model.num_heads
        self.q = nn.Linear(model.width, model.width, bias=arch.bias)
        self.k = nn.Linear(model.width, model.width, bias=arch.bias)
        self.v = nn.Linear(model.width, model.width, bias=arch.bias)
        self.projection = nn.Linear(model.width, model.width, bias=arch.bias)

    def forward(self, x: Tensor, place: Place | None) -> Tensor:
        q, k, v = (split_heads(part(x), self.num_heads) for part in (self.q, self.k, self.v))
        return self.projection(attend(q, k, v, place, self.layer))


class MLP(nn.Module):
    """Four times as wide inside, with GELU in its tanh form, as GPT-2 has it."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.expansion = nn.Linear(width, 4 * width, bias=bias)
        self.projection = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(F.gelu(self.expansion(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP, each on a normed copy and added to the residual stream."""

    def __init__(self, model: ModelConfig, arch: GPT2Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(model.width, bias=arch.bias)
        self.attention = Attention(model, arch, layer)
        self.mlp_norm = nn.LayerNorm(model.width, bias=arch.bias)
        self.mlp = MLP(model.width, arch.bias)

    def forward(self, x: Tensor, place: Place | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), place)
        return x + self.mlp(self.mlp_norm(x))


class GPT2(Decoder):
    """Embedding and positions, blocks, norm, the embedding again as head."""

    def __init__(self, model: ModelConfig, arch: GPT2Config, vocab_size: int) -> None:
        super().__init__(model, vocab_size, tied=True)
        self.positions = nn.Embedding(model.context, model.width)
        self.layers = nn.ModuleList(Block(model, arch, i) for i in range(model.num_layers))
        self.norm = nn.LayerNorm(model.width, bias=arch.bias)
        self.apply(self._initialize)

    def _initialize(self, part: nn.Module) -> None:
        """Normal of 0.02; projections into the residual stream over sqrt(2 * layers)."""
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, Attention | MLP):
            std = 0.02 / (2 * len(self.layers)) ** 0.5
            nn.init.normal_(part.projection.weight, std=std)

    def hidden(self, tokens: Tensor, place: Place | None = None) -> Tensor:
        x = self.embedding(tokens)  # (B, T, C)
        x = x + self.positions(learned_positions(tokens, place))
        for block in self.layers:
            x = block(x, place)
        return self.norm(x)
