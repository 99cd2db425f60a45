"""`arch=modern`: the block of nanochat, chosen so that a trained model exports as NanoChat.

RMSNorm without gain, no biases, rotary positions, QK-norm, a norm after the embedding, an untied
head, projections that start at zero, logits capped by a tanh. Its ReLU squared is a switch: GELU
learns better at our sizes (docs/learning.md).
Read it from the bottom: Modern, Block, MLP, Attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.cache import Place
from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.decoder import Decoder
from babygpt_exp.model.parts import (
    attend,
    compute_type,
    gated_width,
    rms_norm,
    rotary_rows,
    rotary_table,
    rotate,
    split_heads,
)


@dataclass
class ModernConfig(ArchConfig):
    """Switches of the modern block."""

    qk_norm: bool
    """Norm queries and keys after the rotation (https://arxiv.org/abs/2010.04245)."""
    softcap: float
    """Logits are softcap * tanh(logits / softcap); 0 leaves them as they are (Gemma 2)."""
    rotary_base: float
    """Slowest wavelength of the rotary positions, in positions over 2 pi."""
    embedding_norm: bool
    """Norm after the embedding."""
    activation: Literal["relu2", "gelu", "swiglu"]
    """Inside the MLP: ReLU squared (https://arxiv.org/abs/2109.08668), GELU, or SwiGLU, which has
    three matrices, narrower by a third (https://arxiv.org/abs/2002.05202)."""
    zero_init: bool
    """Projections into the residual stream start at zero, so that a block starts as identity."""
    tied_head: bool
    """The embedding is the head too."""
    residual_scalars: bool
    """Each block gets a * x + b * x0, with x0 the normed embedding and a, b learned
    (https://github.com/KellerJordan/modded-nanogpt)."""
    value_embeddings: bool
    """Every other block, the last among them, adds an embedding of the token itself to the values,
    by a learned gate a head (https://github.com/KellerJordan/modded-nanogpt)."""

    def __post_init__(self) -> None:
        if self.softcap < 0:
            raise ValueError(f"arch.softcap={self.softcap} must be 0 (off) or above")
        if self.rotary_base <= 1:
            raise ValueError(f"arch.rotary_base={self.rotary_base} must be above 1")


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normed queries and keys."""

    def __init__(self, model: ModelConfig, arch: ModernConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads, self.qk_norm = layer, model.num_heads, arch.qk_norm
        self.q = nn.Linear(model.width, model.width, bias=False)
        self.k = nn.Linear(model.width, model.width, bias=False)
        self.v = nn.Linear(model.width, model.width, bias=False)
        self.projection = nn.Linear(model.width, model.width, bias=False)

    def forward(
        self, x: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, place: Place | None
    ) -> Tensor:
        q = rotate(split_heads(self.q(x), self.num_heads), cos, sin)  # (B, H, T, D)
        k = rotate(split_heads(self.k(x), self.num_heads), cos, sin)
        v = self.v(x) if extra is None else self.v(x) + extra
        if self.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        return self.projection(attend(q, k, split_heads(v, self.num_heads), place, self.layer))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        inner = gated_width(width) if activation == "swiglu" else 4 * width
        self.expansion = nn.Linear(width, inner, bias=False)
        self.gate = nn.Linear(width, inner, bias=False) if activation == "swiglu" else None
        self.projection = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.expansion(x)
        if self.gate is not None:
            return self.projection(F.silu(self.gate(x)) * inner)
        return self.projection(
            F.relu(inner).square() if self.activation == "relu2" else F.gelu(inner)
        )


class ValueEmbedding(nn.Module):
    """What a token adds to the values of its position, by a gate that starts at 1."""

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, model.width)
        self.gate = nn.Parameter(torch.ones(model.num_heads))
        self.head_width = model.head_width

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) * self.gate.repeat_interleave(self.head_width)  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each on a normed copy and added to the residual stream."""

    def __init__(self, model: ModelConfig, arch: ModernConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(model, arch, layer)
        self.mlp = MLP(model.width, arch.activation)
        self.scalars = nn.Parameter(torch.tensor([1.0, 0.1])) if arch.residual_scalars else None

    def forward(
        self,
        x: Tensor,
        x0: Tensor,
        extra: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        place: Place | None,
    ) -> Tensor:
        if self.scalars is not None:
            x = self.scalars[0].to(x.dtype) * x + self.scalars[1].to(x.dtype) * x0
        x = x + self.attention(rms_norm(x), extra, cos, sin, place)
        return x + self.mlp(rms_norm(x))


class Modern(Decoder):
    """Embedding, norm, blocks, norm, head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: ModelConfig, arch: ModernConfig, vocab_size: int) -> None:
        super().__init__(model, vocab_size, tied=arch.tied_head, softcap=arch.softcap)
        self.arch = arch
        self.layers = nn.ModuleList(Block(model, arch, i) for i in range(model.num_layers))
        with_values = range(model.num_layers - 1, -1, -2) if arch.value_embeddings else ()
        self.values = nn.ModuleDict(
            {str(i): ValueEmbedding(model, vocab_size) for i in sorted(with_values)}
        )
        cos, sin = rotary_table(model.context, model.head_width, arch.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialize)

    def _initialize(self, part: nn.Module) -> None:
        """Uniform matrices of variance 1 / fan-in, zero projections, a head close to zero."""
        if isinstance(part, ValueEmbedding):
            nn.init.uniform_(part.embedding.weight, -0.1, 0.1)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02 if self.arch.tied_head else 1.0)
        elif part is self.lm_head and not self.arch.tied_head:
            nn.init.normal_(self.lm_head.weight, std=0.001)
        elif isinstance(part, nn.Linear) and part is not self.lm_head:
            bound = (3 / part.in_features) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
        if isinstance(part, Attention | MLP) and self.arch.zero_init:
            nn.init.zeros_(part.projection.weight)

    def hidden(self, tokens: Tensor, place: Place | None = None) -> Tensor:
        cos, sin = rotary_rows(self.cos, self.sin, tokens, place)
        x = compute_type(self.embedding(tokens))  # (B, T, C)
        x = x0 = rms_norm(x) if self.arch.embedding_norm else x
        for i, block in enumerate(self.layers):
            extra = compute_type(self.values[str(i)](tokens)) if str(i) in self.values else None
            x = block(x, x0, extra, cos, sin, place)
        return rms_norm(x)
