"""`arch=eir`: the model that EIR builds for its tutorial (https://eir.readthedocs.io).

EIR gives a sequence output an input of the same configuration, and both are stacks of causal
blocks: `model.num_layers=4` is an encoder of four and a decoder of four, eight blocks in series.
Their branches start at a hundred-thousandth of their size, and the embedding, scaled up and tied
to the head, starts by predicting the token itself: it learns slowly at first.
Read it from the bottom: EIR, Block, SwiGLU, Attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.cache import Place
from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.decoder import Decoder
from babygpt_exp.model.parts import (
    attend,
    learned_positions,
    rotary_rows,
    rotary_table,
    split_heads,
)

NUM_STACKS = 2
"""Encoder and decoder; nothing but their order tells them apart."""


@dataclass
class EIRConfig(ArchConfig):
    """Switches of EIR's model."""

    layer_scale: float
    """What each branch's channels are multiplied by at the start (https://arxiv.org/abs/2103.17239,
    which advises 0.1 up to 18 blocks)."""

    def __post_init__(self) -> None:
        if self.layer_scale <= 0:
            raise ValueError(f"arch.layer_scale={self.layer_scale} must be above 0")


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (2i, 2i + 1) of x (B, H, T, D) by its position's angle."""
    even, odd = x[..., 0::2], x[..., 1::2]  # (B, H, T, D / 2)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, model: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, model.num_heads
        self.q = nn.Linear(model.width, model.width, bias=False)
        self.k = nn.Linear(model.width, model.width, bias=False)
        self.v = nn.Linear(model.width, model.width, bias=False)
        self.projection = nn.Linear(model.width, model.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Place | None) -> Tensor:
        q, k, v = (split_heads(part(x), self.num_heads) for part in (self.q, self.k, self.v))
        q, k = rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)  # (B, H, T, D)
        return self.projection(attend(q, k, v, place, self.layer))


class SwiGLU(nn.Module):
    """A gated MLP four times as wide inside: half as many weights again as a plain one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 4 * width, bias=False)
        self.expansion = nn.Linear(width, 4 * width, bias=False)
        self.projection = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(F.silu(self.gate(x)) * self.expansion(x))


class Block(nn.Module):
    """Attention, then MLP, each on a normed copy, scaled and added to the residual stream."""

    def __init__(self, model: ModelConfig, arch: EIRConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(model.width)
        self.attention = Attention(model, layer)
        self.attention_scale = nn.Parameter(torch.full((model.width,), arch.layer_scale))
        self.mlp_norm = nn.RMSNorm(model.width)
        self.mlp = SwiGLU(model.width)
        self.mlp_scale = nn.Parameter(torch.full((model.width,), arch.layer_scale))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Place | None) -> Tensor:
        attended = self.attention(self.attention_norm(x), cos, sin, place)
        x = x + self.attention_scale * attended
        return x + self.mlp_scale * self.mlp(self.mlp_norm(x))


class EIR(Decoder):
    """Scaled embedding and positions, both stacks, norm, the embedding again as head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: ModelConfig, arch: EIRConfig, vocab_size: int) -> None:
        super().__init__(model, vocab_size, tied=True, head_bias=True)
        num_blocks = NUM_STACKS * model.num_layers
        self.positions = nn.Embedding(model.context, model.width)
        self.layers = nn.ModuleList(Block(model, arch, i) for i in range(num_blocks))
        self.norm = nn.RMSNorm(model.width)
        cos, sin = rotary_table(model.context, model.head_width)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialize)

    def _initialize(self, part: nn.Module) -> None:
        """What EIR sets; queries, keys, values, positions and the head's bias start as torch's."""
        if part is self.embedding:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if isinstance(part, SwiGLU):
            nn.init.normal_(part.gate.weight, std=0.02)
            nn.init.normal_(part.expansion.weight, std=0.02)
        if isinstance(part, Attention | SwiGLU):
            std = 0.02 / (2 * len(self.layers)) ** 0.5
            nn.init.normal_(part.projection.weight, std=std)

    def hidden(self, tokens: Tensor, place: Place | None = None) -> Tensor:
        cos, sin = rotary_rows(self.cos, self.sin, tokens, place)
        x = self.embedding(tokens) * self.embedding.embedding_dim**0.5  # (B, T, C)
        x = x + self.positions(learned_positions(tokens, place))
        for block in self.layers:
            x = block(x, cos, sin, place)
        return self.norm(x)
