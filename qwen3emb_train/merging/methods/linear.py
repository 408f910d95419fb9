"""The weighted mean of weight tensors: a model soup (Wortsman et al. 2022, arXiv 2203.05482)."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.merging.methods.blocks import interpolate, join_in_turn


def weighted_mean(tensors: Iterable[Float[Tensor, "*shape"]], weights: Iterable[float]) -> Float[Tensor, "*shape"]:
    """The sum of weight times tensor over the sum of the weights, in float32.

    A running mean: equal tensors give exactly that tensor, and only one tensor and the mean are in memory.

    Args:
        tensors: one or more, of one shape; consumed one at a time.
        weights: positive, one for each tensor.
    """
    return join_in_turn(tensors, weights, interpolate)
