"""`arch=llama`: the block of Llama, such that a trained model exports as Llama.

RMSNorm with gain, rotary positions, SwiGLU, no biases (https://arxiv.org/abs/2302.13971).
Read it from the bottom: Llama, Block, MLP, Attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.cache import Place
from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.decoder import Decoder
from babygpt_exp.model.parts import (
    attend,
    compute_type,
    gated_width,
    rotary_rows,
    rotary_table,
    rotate,
    split_heads,
)

EPSILON = 1e-5
"""Added to mean squares in norms, from Llama 2 on."""


@dataclass
class LlamaConfig(ArchConfig):
    """Switches of the Llama block."""

    rotary_base: float
    """Slowest wavelength of the rotary positions, in positions over 2 pi."""
    tied_head: bool
    """The embedding is the head too."""

    def __post_init__(self) -> None:
        if self.rotary_base <= 1:
            raise ValueError(f"arch.rotary_base={self.rotary_base} must be above 1")


class Norm(nn.RMSNorm):
    """Root-mean-square norm over channels, with a learned gain (arXiv 1910.07467)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


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
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)  # (B, H, T, D)
        return self.projection(attend(q, k, v, place, self.layer))


class MLP(nn.Module):
    """SwiGLU: one half of the inner channels gates the other (arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = gated_width(width)
        self.gate = nn.Linear(width, inner, bias=False)
        self.expansion = nn.Linear(width, inner, bias=False)
        self.projection = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(F.silu(self.gate(x)) * self.expansion(x))


class Block(nn.Module):
    """Attention, then MLP, each on a normed copy and added to the residual stream."""

    def __init__(self, model: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(model.width, EPSILON)
        self.attention = Attention(model, layer)
        self.mlp_norm = Norm(model.width, EPSILON)
        self.mlp = MLP(model.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Place | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, place)
        return x + self.mlp(self.mlp_norm(x))


class Llama(Decoder):
    """Embedding, blocks, norm, head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: ModelConfig, arch: LlamaConfig, vocab_size: int) -> None:
        super().__init__(model, vocab_size, tied=arch.tied_head)
        self.layers = nn.ModuleList(Block(model, i) for i in range(model.num_layers))
        self.norm = Norm(model.width, EPSILON)
        cos, sin = rotary_table(model.context, model.head_width, arch.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", -sin, persistent=False)  # Llama turns the other way round
        self.apply(self._initialize)

    def _initialize(self, part: nn.Module) -> None:
        """Normal of 0.02, as Hugging Face's Llama starts; gains of 1."""
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)

    def hidden(self, tokens: Tensor, place: Place | None = None) -> Tensor:
        cos, sin = rotary_rows(self.cos, self.sin, tokens, place)
        x = compute_type(self.embedding(tokens))  # (B, T, C)
        for block in self.layers:
            x = block(x, cos, sin, place)
        return self.norm(x)
