"""How much arithmetic a token costs, and what share of a machine's arithmetic that is."""

from __future__ import annotations

from babygpt_exp.model import Decoder, ModelConfig


def flops_per_token(config: ModelConfig, model: Decoder, *, causal: bool = False) -> float:
    """FLOPs of forward and backward, a token: 6 N + 12 L C T.

    N counts the weights that multiply activations, the head among them; attention is counted
    without the saving of causality (PaLM, https://arxiv.org/abs/2204.02311, appendix B), or
    with it, 6 N + 6 L C T, if `causal`. The first is what others publish; only the second is
    arithmetic that has to be done, and stays below the peak at any context.
    """
    attention = 12 * len(model.layers) * config.width * config.context
    return 6.0 * model.num_matmul_parameters() + (attention / 2 if causal else attention)


def utilization(flops: float, tokens_per_s: float, peak_flops: float | None) -> float | None:
    """Share of the peak (FLOP/s) that training uses: MFU.

    None where no peak is known, and where it would be above 1: then the peak is wrong.
    """
    if peak_flops is None:
        return None
    share = flops * tokens_per_s / peak_flops
    return share if share <= 1 else None
