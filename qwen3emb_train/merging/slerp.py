"""Spherical linear interpolation of two weight tensors.

Shoemake, *Animating Rotation with Quaternion Curves*, SIGGRAPH 1985. The report merges "multiple model checkpoints"
this way (TR section 3.2). Files, names and data types are the business of ``merge.py``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

PARALLEL_COSINE = 0.9995
"""Above it the arc and its chord differ by less than 2e-4 of their length, and sin(angle) loses digits."""

_BLOCK = 1 << 20


def slerp(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float) -> Float[Tensor, "*shape"]:
    """The point at ``t`` on the arc from ``a`` to ``b``, each tensor taken as one flat vector.

    With cos(angle) = <a, b> / (|a| |b|), the result is

        sin((1 - t) angle) / sin(angle) * a  +  sin(t angle) / sin(angle) * b

    that is, the angle comes from the directions and the coefficients apply to ``a`` and ``b`` themselves, as mergekit
    does it. Equal norms are therefore kept exactly; different norms are blended (between the two for an angle up to 90
    degrees). Near 0 degrees, and where one tensor is all zeros and so has no direction, the result is the linear
    ``a + t (b - a)``. Between opposite directions infinitely many arcs exist and the linear path runs through zero, so
    there the function refuses.

    Args:
        a: the tensor at t = 0, any floating dtype.
        b: the tensor at t = 1, of the same shape.
        t: position on the arc, 0 to 1. At 0 and 1 the result is ``a`` or ``b`` to the bit.

    Returns:
        A new float32 tensor of the same shape.

    Raises:
        ValueError: for ``t`` outside 0..1, or for opposite directions (cosine below -0.9995).
    """
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t = {t} is not on the arc. Use a value from 0 (the first model) to 1 (the second).")
    if t in (0.0, 1.0):
        return (a if t == 0.0 else b).to(torch.float32, copy=True)
    a, b = a.float(), b.float()
    norms = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    cosine = _dot(a, b) / norms if norms > 0.0 else 1.0
    if cosine > PARALLEL_COSINE:
        return torch.lerp(a, b, t)
    if cosine < -PARALLEL_COSINE:
        raise ValueError(
            f"the two tensors point in opposite directions (cosine {cosine:.6f}): no arc between them is preferred to "
            "another. Models that differ so much share no common start; merge checkpoints of the same base model."
        )
    angle = math.acos(cosine)
    result = a * (math.sin((1.0 - t) * angle) / math.sin(angle))
    return result.add_(b, alpha=math.sin(t * angle) / math.sin(angle))


def _dot(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """Inner product summed in float64, block by block: an embedding matrix in float64 would not fit beside itself."""
    blocks = zip(a.reshape(-1).split(_BLOCK), b.reshape(-1).split(_BLOCK), strict=True)
    return math.fsum(torch.dot(x.double(), y.double()).item() for x, y in blocks)
