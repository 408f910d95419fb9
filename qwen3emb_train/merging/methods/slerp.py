"""Spherical linear interpolation of weight tensors.

Shoemake, *Animating Rotation with Quaternion Curves*, SIGGRAPH 1985. arXiv 2506.05176 merges "multiple
model checkpoints" this way (section 3.2).
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.merging.methods.blocks import inner_products, interpolate, join_in_turn, weighted_sum

PARALLEL_COSINE = 0.9995
"""Above it the arc and its chord differ by less than 2e-4 of their length, and sin(angle) loses digits."""


def slerp(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """The point at ``t`` on the arc from ``a`` to ``b``, each tensor taken as one flat vector.

    With cos(angle) = <a, b> / (|a| |b|), the result is

        sin((1 - t) angle) / sin(angle) * a  +  sin(t angle) / sin(angle) * b

    that is, the angle is that of the directions and the coefficients apply to ``a`` and ``b`` themselves, as in
    mergekit. Equal norms are therefore kept exactly; different norms are blended (between the two for an angle up to 90
    degrees). Near 0 degrees, and where one tensor is all zeros and so has no direction, the result is the linear
    ``a + t (b - a)``. Between opposite directions infinitely many arcs exist and the linear path runs through zero, so
    there the function raises.

    Args:
        a: the tensor at t = 0, any floating dtype.
        b: the tensor at t = 1, of the same shape.
        t: position on the arc, 0 to 1. At 0 and 1 the result is exactly ``a`` or ``b``.
        dtype: of the result; the arithmetic is float32.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: for ``t`` outside 0..1, or for opposite directions (cosine below -0.9995).
    """
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t = {t} is not on the arc. Use a value from 0 (the first model) to 1 (the second).")
    if t in (0.0, 1.0):
        return (a if t == 0.0 else b).to(dtype, copy=True)
    (square_a, product), (_, square_b) = inner_products([a, b]).tolist()
    norms = math.sqrt(square_a) * math.sqrt(square_b)
    cosine = product / norms if norms > 0.0 else 1.0
    if cosine > PARALLEL_COSINE:
        return interpolate(a, b, t, dtype)
    if cosine < -PARALLEL_COSINE:
        raise opposite_directions(cosine)
    angle = math.acos(cosine)
    coefficients = [math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    return weighted_sum([a, b], coefficients, dtype)


def slerp_in_turn(tensors: Iterable[Float[Tensor, "*shape"]], weights: Iterable[float]) -> Float[Tensor, "*shape"]:
    """Repeated slerp of many tensors: the second is joined to the first, the third to their merge, and so on.

    Each is joined at ``t`` = its fraction of the weight so far, so that equal directions give the weighted mean. Only
    one tensor and the merge are in memory. The result depends slightly on the order; the Karcher mean does not.

    Args:
        tensors: two or more, of one shape; consumed one at a time.
        weights: positive, one for each tensor.
    """
    return join_in_turn(tensors, weights, slerp)


def opposite_directions(cosine: float) -> ValueError:
    """The error of tensors without a unique arc between them."""
    return ValueError(
        f"the two tensors point in opposite directions (cosine {cosine:.6f}): no arc between them is preferred to "
        "another. Models that differ so much share no common start; merge checkpoints of the same base model."
    )
