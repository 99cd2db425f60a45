"""How much arithmetic a token costs."""

from __future__ import annotations

from babygpt_exp.model import Decoder, ModelConfig


def flops_per_token(config: ModelConfig, model: Decoder) -> float:
    """FLOPs of forward and backward, a token: 6 N + 12 L C T.

    N counts the weights that multiply activations, the head among them; attention is counted
    without the saving of causality (PaLM, https://arxiv.org/abs/2204.02311, appendix B).
    """
    attention = 12 * config.num_layers * config.width * config.context
    return 6.0 * model.num_matmul_parameters() + attention
