"""From token states to one vector per text."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def pool_last_token(
    states: Float[Tensor, "tokens dim"], cu_seqlens: Int[Tensor, " texts_and_one"]
) -> Float[Tensor, "texts dim"]:
    """The state at each packed text's EOS token."""
    return states[cu_seqlens[1:] - 1]


def pool_last_token_padded(
    states: Float[Tensor, "texts longest dim"], attention_mask: Int[Tensor, "texts longest"]
) -> Float[Tensor, "texts dim"]:
    """The same for texts padded on either side: the last position that the mask keeps."""
    longest = attention_mask.shape[1]
    last = longest - 1 - attention_mask.flip(1).argmax(1)
    return states[torch.arange(states.shape[0], device=states.device), last]


def truncate_and_normalize(vectors: Float[Tensor, "texts dim"], dim: int | None = None) -> Float[Tensor, "texts kept"]:
    """Matryoshka: the first ``dim`` components, *then* the L2 norm, as in the released models' usage code.

    Raises:
        ValueError: ``dim`` is outside 1..the vectors' dimension.
    """
    if dim is not None and not 0 < dim <= vectors.shape[1]:
        raise ValueError(f"dim {dim} is not within 1..{vectors.shape[1]}, the model's dimension.")
    return F.normalize(vectors[:, :dim], dim=-1)
