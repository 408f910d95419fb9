"""The Karcher (Frechet) mean of weight tensors: the point of the sphere nearest to all of them at once.

Karcher, *Riemannian center of mass and mollifier smoothing*, 1977. For two tensors it is the slerp between their
directions; for more it does not depend on their order, unlike repeated slerp.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.merging.methods.blocks import inner_products, weighted_sum
from qwen3emb_train.merging.methods.linear import weighted_mean
from qwen3emb_train.merging.methods.slerp import PARALLEL_COSINE, opposite_directions

_MAX_ITERATIONS = 100
_TOLERANCE = 1e-12


def karcher_mean(tensors: Sequence[Float[Tensor, "*shape"]], weights: Sequence[float]) -> Float[Tensor, "*shape"]:
    """The direction that minimises the weighted sum of squared angles to ``tensors``, with their weighted mean norm.

    The mean lies in the span of the tensors, so the iteration runs on their n coefficients and needs only the n x n
    inner products: the tensors are read twice for any number of iterations. Near-parallel tensors, and tensors
    without direction (all zeros), are averaged linearly, as by ``slerp``.

    Args:
        tensors: one shape, any floating dtype.
        weights: positive, with the sum 1.

    Raises:
        ValueError: two tensors, or a tensor and the mean, point in opposite directions.
    """
    gram = inner_products(tensors)
    norms = gram.diagonal().sqrt()
    if bool((norms == 0.0).any()):
        return weighted_mean(tensors, weights)
    cosines = (gram / norms.outer(norms)).clamp(-1.0, 1.0)
    if cosines.min() > PARALLEL_COSINE:
        return weighted_mean(tensors, weights)
    normalized_weights = torch.tensor(list(weights), dtype=torch.float64)
    direction = _mean_direction(cosines, normalized_weights)
    coefficients = direction * float(normalized_weights @ norms) / norms
    return weighted_sum(tensors, coefficients.tolist())


def _mean_direction(cosines: Float[Tensor, "n n"], normalized_weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Coefficients of the mean in terms of the unit vectors whose inner products are ``cosines``."""
    if cosines.min() < -PARALLEL_COSINE:
        raise opposite_directions(float(cosines.min()))
    mean = _unit(normalized_weights, cosines)
    for _ in range(_MAX_ITERATIONS):
        to_mean = (cosines @ mean).clamp(-1.0, 1.0)
        if to_mean.min() < -PARALLEL_COSINE:
            raise opposite_directions(float(to_mean.min()))
        angles = to_mean.acos()
        stretch = torch.where(angles > 1e-7, angles / angles.sin(), 1.0)  # of each vector's tangent at the mean
        tangent = normalized_weights * stretch - (normalized_weights * stretch * to_mean).sum() * mean
        length = math.sqrt(max(float(tangent @ cosines @ tangent), 0.0))
        if length < _TOLERANCE:
            break
        mean = _unit(math.cos(length) * mean + math.sin(length) / length * tangent, cosines)
    return mean


def _unit(coefficients: Float[Tensor, " n"], cosines: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    squared = float(coefficients @ cosines @ coefficients)
    if squared < 1e-12:
        raise opposite_directions(-1.0)  # the directions cancel
    return coefficients / math.sqrt(squared)
