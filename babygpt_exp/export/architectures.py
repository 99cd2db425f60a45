"""What our models are in transformers: names of weights, and config.json.

Each function gives the config and the weights of one of its models. Weights of linear layers are
(out, in), but for GPT-2, whose own layers have them the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from babygpt_exp.errors import ConfigError
from babygpt_exp.model import ArchConfig, Decoder
from babygpt_exp.model.gpt2 import GPT2, GPT2Config
from babygpt_exp.model.llama import EPSILON, Llama, LlamaConfig
from babygpt_exp.model.modern import Modern, ModernConfig
from babygpt_exp.trained import Trained

MODERN_EPSILON = torch.finfo(torch.float32).eps
"""What torch's norm without gain adds to mean squares."""


@dataclass(frozen=True)
class Exported:
    """A model as transformers has it."""

    config: dict[str, Any]
    """config.json, but for what is the same for all."""
    weights: dict[str, Tensor]
    """Tensors by their names."""


def exported(trained: Trained) -> Exported:
    """A trained model in transformers' terms; ConfigError for what has no place there."""
    if problems := refused(trained.config.arch):
        raise ConfigError("; ".join(problems))
    found = EXPORTS[type(trained.config.arch)](trained)
    end_of_text = trained.tokenizer.end_of_text
    common = {
        "dtype": "float32",
        "vocab_size": trained.tokenizer.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "use_cache": True,
    }
    return Exported({**found.config, **common}, found.weights)


def refused(arch: ArchConfig) -> list[str]:
    """Why an architecture can not be exported, switch by switch; empty if it can."""
    if type(arch) not in EXPORTS:
        return [f"arch={arch.name} can not be exported: transformers has no model like it"]
    if not isinstance(arch, ModernConfig):
        return []
    unlike = {
        "arch.qk_norm=false": not arch.qk_norm,
        "arch.embedding_norm=false": not arch.embedding_norm,
        "arch.activation=swiglu": arch.activation == "swiglu",
        "arch.residual_scalars=true": arch.residual_scalars,
        "arch.value_embeddings=true": arch.value_embeddings,
    }
    return [
        f"{switch} can not be exported: transformers' NanoChat has no place for it"
        for switch, is_set in unlike.items()
        if is_set
    ]


def nanochat(trained: Trained) -> Exported:
    """`arch=modern` as NanoChat."""
    model, arch = trained.model, trained.config.arch
    assert isinstance(model, Modern)
    assert isinstance(arch, ModernConfig)
    weights: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding.weight}
    for i, block in enumerate(blocks_of(model)):
        weights |= {
            **attention(block, f"model.layers.{i}.self_attn"),
            f"model.layers.{i}.mlp.fc1.weight": block.mlp.expansion.weight,
            f"model.layers.{i}.mlp.fc2.weight": block.mlp.projection.weight,
        }
    config = {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        **rotary_sizes(trained, arch.rotary_base),
        "intermediate_size": blocks_of(model)[0].mlp.expansion.out_features,
        "hidden_act": arch.activation,
        "rms_norm_eps": MODERN_EPSILON,
        "final_logit_softcapping": arch.softcap or None,
        "tie_word_embeddings": arch.tied_head,
    }
    return Exported(config, weights | head(model, arch.tied_head))


def llama(trained: Trained) -> Exported:
    """`arch=llama` as Llama."""
    model, arch = trained.model, trained.config.arch
    assert isinstance(model, Llama)
    assert isinstance(arch, LlamaConfig)
    weights: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding.weight}
    for i, block in enumerate(blocks_of(model)):
        place = f"model.layers.{i}"
        weights |= {
            **attention(block, f"{place}.self_attn"),
            f"{place}.mlp.gate_proj.weight": block.mlp.gate.weight,
            f"{place}.mlp.up_proj.weight": block.mlp.expansion.weight,
            f"{place}.mlp.down_proj.weight": block.mlp.projection.weight,
            f"{place}.input_layernorm.weight": block.attention_norm.weight,
            f"{place}.post_attention_layernorm.weight": block.mlp_norm.weight,
        }
    weights["model.norm.weight"] = model.norm.weight
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **rotary_sizes(trained, arch.rotary_base),
        "intermediate_size": blocks_of(model)[0].mlp.expansion.out_features,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "tie_word_embeddings": arch.tied_head,
    }
    return Exported(config, weights | head(model, arch.tied_head))


def gpt2(trained: Trained) -> Exported:
    """`arch=gpt2` as GPT-2, which always has biases: zeros where we have none."""
    model, size = trained.model, trained.config.model
    assert isinstance(model, GPT2)
    weights: dict[str, Tensor] = {
        "transformer.wte.weight": model.embedding.weight,
        "transformer.wpe.weight": model.positions.weight,
        **with_bias(model.norm, "transformer.ln_f"),
    }
    for i, block in enumerate(blocks_of(model)):
        place, parts = f"transformer.h.{i}", block.attention
        weights |= {
            **with_bias(block.attention_norm, f"{place}.ln_1"),
            **turned([parts.q, parts.k, parts.v], f"{place}.attn.c_attn"),
            **turned([parts.projection], f"{place}.attn.c_proj"),
            **with_bias(block.mlp_norm, f"{place}.ln_2"),
            **turned([block.mlp.expansion], f"{place}.mlp.c_fc"),
            **turned([block.mlp.projection], f"{place}.mlp.c_proj"),
        }
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": size.width,
        "n_layer": size.num_layers,
        "n_head": size.num_heads,
        "n_positions": size.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.norm.eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
    }
    return Exported(config, weights)


EXPORTS: dict[type[ArchConfig], Callable[[Trained], Exported]] = {
    ModernConfig: nanochat,
    LlamaConfig: llama,
    GPT2Config: gpt2,
}
"""What makes each architecture."""


def rotary_sizes(trained: Trained, rotary_base: float) -> dict[str, Any]:
    """The part of the config that NanoChat and Llama share."""
    size = trained.config.model
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_heads,
        "head_dim": size.head_width,
        "max_position_embeddings": size.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": rotary_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
    }


def blocks_of(model: Decoder) -> list[Any]:
    """The blocks, whose parts go by the same names in every architecture."""
    return list(model.layers)


def attention(block: Any, place: str) -> dict[str, Tensor]:
    """The four matrices of a block's attention."""
    parts = block.attention
    return {
        f"{place}.q_proj.weight": parts.q.weight,
        f"{place}.k_proj.weight": parts.k.weight,
        f"{place}.v_proj.weight": parts.v.weight,
        f"{place}.o_proj.weight": parts.projection.weight,
    }


def head(model: Modern | Llama, is_tied: bool) -> dict[str, Tensor]:
    """The head, unless it is the embedding."""
    return {} if is_tied else {"lm_head.weight": model.lm_head.weight}


def with_bias(norm: nn.LayerNorm, place: str) -> dict[str, Tensor]:
    """Gain and bias of a norm."""
    bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    return {f"{place}.weight": norm.weight, f"{place}.bias": bias}


def turned(parts: list[nn.Linear], place: str) -> dict[str, Tensor]:
    """Linear layers side by side as one of GPT-2's, (in, out), with its bias."""
    weights: list[Tensor] = [part.weight for part in parts]
    biases: list[Tensor] = [
        part.weight.new_zeros(part.out_features) if part.bias is None else part.bias
        for part in parts
    ]
    return {
        f"{place}.weight": torch.cat(weights).T,
        f"{place}.bias": torch.cat(biases),
    }
