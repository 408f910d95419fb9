"""The stored form of vectors: float32, float16, int8 (a quarter of float32) or binary (1/32), and back.

Queries stay float32; documents take the space.
"""

from collections.abc import Mapping
from enum import Enum

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

_LEVELS = 127


class VectorType(str, Enum):
    """``int8``: each vector times its own scale. ``binary``: one bit for each component, its sign."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


def to_stored(vectors: Float[Tensor, "rows dim"], vector_type: VectorType) -> dict[str, Tensor]:
    """The arrays to store: ``vectors``, for int8 also ``scales`` (the value of one step, by row).

    For int8 no vector may be zero.
    """
    vectors = vectors.float()
    if vector_type is VectorType.float32:
        return {"vectors": vectors.contiguous()}
    if vector_type is VectorType.float16:
        return {"vectors": vectors.half()}
    if vector_type is VectorType.int8:
        scales = vectors.abs().amax(dim=1) / _LEVELS
        return {"vectors": (vectors / scales[:, None]).round().to(torch.int8), "scales": scales}
    return {"vectors": torch.from_numpy(quantize_binary(vectors.numpy()))}


def from_stored(
    stored: Mapping[str, Shaped[np.ndarray, "rows ..."]], vector_type: VectorType, dim: int
) -> Float[Tensor, "rows dim"]:
    """float32 vectors. int8 and binary are restored approximately (and not exactly at length 1).

    Args:
        stored: the arrays of ``to_stored``.
        vector_type: their type.
        dim: components of a vector.
    """
    vectors = stored["vectors"]
    if vector_type is VectorType.binary:
        return torch.from_numpy(restore_binary(vectors, dim))
    restored = torch.from_numpy(vectors.astype(np.float32))
    return restored * torch.from_numpy(stored["scales"].copy())[:, None] if "scales" in stored else restored


def quantize_binary(vectors: Float32[np.ndarray, "texts dim"]) -> UInt8[np.ndarray, "texts bytes"]:
    """One bit for each component: is it positive? Eight to a byte, the first in the highest bit."""
    return np.packbits(vectors > 0, axis=1)


def restore_binary(codes: UInt8[np.ndarray, "texts bytes"], dim: int) -> Float32[np.ndarray, "texts dim"]:
    """+1 and -1, divided by the square root of ``dim``: unit vectors again."""
    bits = np.unpackbits(codes, axis=1, count=dim).astype(np.float32)
    return (2 * bits - 1) / np.float32(np.sqrt(dim))
