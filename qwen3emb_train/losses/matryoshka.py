"""One loss on several prefixes of the same vectors (Matryoshka representation learning, arXiv 2205.13147).

The loss is computed on the full vector and on truncated prefixes (arXiv 2601.04720, 5.1.1). The prefix is cut *before*
the L2 norm, which is how the released models are used.
"""

from collections.abc import Sequence

import torch

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings


def matryoshka(
    loss: EmbeddingLoss,
    local: Embeddings,
    gathered: Embeddings | None,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    first_query: int = 0,
) -> LossOutput:
    """The weighted mean of ``loss`` over the prefixes ``dims``.

    Args:
        loss: any embedding loss.
        local, gathered, first_query: arguments of the loss.
        dims: prefix lengths, exactly these: the full dimension is used only if listed. Empty: only the full one.
        weights: one for each of ``dims``, at any scale; None: all equal. The report gives none.

    Returns:
        The mean, the metrics of the largest prefix, and each prefix's loss as ``loss_dim_{dim}``.

    Raises:
        ValueError: as ``check_dims``.
    """
    if not dims:
        dims = [local.dim]
    if weights is None:
        weights = [1.0] * len(dims)
    check_dims(dims, weights, local.dim)
    outputs = dict(zip(dims, loss.on_prefixes(local, gathered, dims, first_query), strict=True))
    weighted = torch.stack(
        [outputs[dim].loss * (weight / sum(weights)) for dim, weight in zip(dims, weights, strict=True)]
    )
    by_dim = {f"loss_dim_{dim}": output.loss.detach() for dim, output in outputs.items()}
    return LossOutput(weighted.sum(), outputs[max(dims)].metrics | by_dim)


def check_dims(dims: Sequence[int], weights: Sequence[float], full_dim: int) -> None:
    """Checks prefixes and weights.

    Args:
        dims: prefix lengths.
        weights: one for each of them.
        full_dim: the encoder's dimension.

    Raises:
        ValueError: dims repeat or are outside 1..full_dim; weights do not match them or are not positive.
    """
    if len(set(dims)) < len(dims):
        raise ValueError(f"Matryoshka dims {list(dims)} repeat. List each once; weights make one count more.")
    outside = [dim for dim in dims if not 1 <= dim <= full_dim]
    if outside:
        raise ValueError(f"Matryoshka dims {outside} are not within 1..{full_dim}, the encoder's dimension.")
    if len(weights) != len(dims):
        raise ValueError(f"{len(weights)} Matryoshka weights for {len(dims)} dims. Give one weight for each dim.")
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"Matryoshka weights {list(weights)} must be positive. Leave out the dim instead.")
