"""`arch=modern`: the block of nanochat, chosen so that a trained model exports as NanoChat.

RMSNorm without gain, no biases, rotary positions, QK-norm, ReLU squared, a norm after the
embedding, an untied head, projections that start at zero, logits capped by a tanh.
Read it from the bottom: Modern, Block, MLP, Attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from babygpt_exp.model.config import ArchConfig, ModelConfig
from babygpt_exp.model.parts import (
    Cache,
    Decoder,
    attend,
    rms_norm,
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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        q = rotate(split_heads(self.q(x), self.num_heads), cos, sin)  # (B, H, T, D)
        k = rotate(split_heads(self.k(x), self.num_heads), cos, sin)
        v = split_heads(self.v(x), self.num_heads)
        if self.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        return self.projection(attend(q, k, v, cache, self.layer))


class MLP(nn.Module):
    """Four times as wide inside, with ReLU squared (https://arxiv.org/abs/2109.08668)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expansion = nn.Linear(width, 4 * width, bias=False)
        self.projection = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(F.relu(self.expansion(x)).square())


class Block(nn.Module):
    """Attention, then MLP, each on a normed copy and added to the residual stream."""

    def __init__(self, model: ModelConfig, arch: ModernConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(model, arch, layer)
        self.mlp = MLP(model.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        x = x + self.attention(rms_norm(x), cos, sin, cache)
        return x + self.mlp(rms_norm(x))


class Modern(Decoder):
    """Embedding, norm, blocks, norm, head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: ModelConfig, arch: ModernConfig, vocab_size: int) -> None:
        super().__init__()
        self.context, self.num_heads, self.softcap = model.context, model.num_heads, arch.softcap
        self.embedding = nn.Embedding(vocab_size, model.width)
        self.layers = nn.ModuleList(Block(model, arch, i) for i in range(model.num_layers))
        self.lm_head = nn.Linear(model.width, vocab_size, bias=False)
        cos, sin = rotary_table(model.context, model.head_width, arch.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialize)

    def _initialize(self, part: nn.Module) -> None:
        """Uniform matrices of variance 1 / fan-in, zero projections, a head close to zero."""
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight)
        elif part is self.lm_head:
            nn.init.normal_(self.lm_head.weight, std=0.001)
        elif isinstance(part, nn.Linear):
            bound = (3 / part.in_features) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
        if isinstance(part, Attention | MLP):
            nn.init.zeros_(part.projection.weight)

    def blocks(self) -> nn.ModuleList:
        return self.layers

    def head(self) -> nn.Linear:
        return self.lm_head

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        start = 0 if cache is None else cache.length
        cos, sin = (
            self.cos[start : start + tokens.size(1)],
            self.sin[start : start + tokens.size(1)],
        )
        x = rms_norm(self.embedding(tokens))  # (B, T, C)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for block in self.layers:
            x = block(x, cos, sin, cache)
        if cache is not None:
            cache.length += tokens.size(1)
        return rms_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.lm_head(hidden).float()
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits
