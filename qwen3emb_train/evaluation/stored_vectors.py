"""Vectors quantised as an index would store them, and dequantised, to measure the loss of int8 and binary.

The codes are those of Sentence-Transformers' ``quantize_embeddings``. int8: each component's range, from its least to
its greatest value among the documents, in 256 steps. binary: one bit for each component, its sign.

Queries stay float32 and are multiplied with the dequantised documents: int8 codes times their step, bits as +1 and -1.
That is the score by which Sentence-Transformers' quantised search rescores its candidates, here for every document.
"""

from enum import Enum

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from qwen3emb_train.index.vector_bytes import quantize_binary, restore_binary

_STEPS = 255
_OFFSET = 128  # unsigned codes as signed bytes


class StoredAs(str, Enum):
    """How an index keeps vectors: four bytes, one byte or one bit a component."""

    float32 = "float32"
    int8 = "int8"
    binary = "binary"


def stored(vectors: Float[Tensor, "texts dim"], form: StoredAs) -> Float[Tensor, "texts dim"]:
    """The vectors after quantisation and dequantisation; int8 ranges are those of ``vectors``."""
    if form is StoredAs.float32:
        return vectors
    if form is StoredAs.binary:
        return torch.from_numpy(restore_binary(quantize_binary(vectors.numpy()), vectors.shape[1]))
    codes, lowest, steps = int8_codes(vectors)
    return (codes.float() + _OFFSET) * steps + lowest


def int8_codes(
    vectors: Float[Tensor, "texts dim"],
) -> tuple[Int8[Tensor, "texts dim"], Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Codes, and the lowest value and step of each component."""
    lowest, highest = vectors.amin(dim=0), vectors.amax(dim=0)
    steps = (highest - lowest) / _STEPS
    steps = torch.where(steps == 0, torch.ones_like(steps), steps)  # a constant component
    codes = ((vectors - lowest) / steps).floor().clamp(0, _STEPS)
    return (codes - _OFFSET).to(torch.int8), lowest, steps
