"""What a model is worth: bits a byte of any text, and the likelihoods that benchmarks ask for."""

from babygpt_exp.evaluation.figures import Evaluation

__all__ = ["Evaluation"]
