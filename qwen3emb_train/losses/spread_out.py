"""Global orthogonal regularisation: unrelated texts should have embeddings as spread out as uniform random directions.

Zhang et al. 2017, arXiv 1708.06320: with M1 and M2 the mean cosine and the mean squared cosine of non-matching texts
in ``dim`` dimensions,

    R = M1**2 + max(0, M2 - 1 / dim),

because uniform directions have M1 = 0 and M2 = 1 / dim. EmbeddingGemma (arXiv 2509.20354) adds a variant of it (M2
alone) for queries and for documents, so that embeddings use the whole space and are robust to quantisation.

Sums over all pairs do not need the pairs: that of s_ij is |sum of z_i|**2, that of s_ij**2 is |Z^T Z|**2 (Frobenius).
So it is exact over all ranks in O(n dim) memory plus one [dim x dim] matrix.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings, normalized


@dataclass
class SpreadOut(EmbeddingLoss):
    """R of the queries plus R of the positives, over all ranks' embeddings; see the module. Used in addition to a loss.

    Texts that occur several times count once: a text must not be pushed away from itself. Hard negatives are left out:
    they were chosen to be similar.
    """

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The regulariser of all gathered texts, the same on every rank; 0 for fewer than two texts of a role.

        Args:
            local, gathered, first_query: as in ``EmbeddingLoss``.

        Returns:
            The metrics, means over queries and positives: ``mean_cosine`` (M1), ``mean_squared_cosine`` (M2).
        """
        with torch.autocast(local.queries.device.type, enabled=False):
            gathered = normalized(local if gathered is None else gathered)
            moments = torch.stack(
                [
                    _moments(gathered.queries[_first_occurrences(gathered.query_hash)]),
                    _moments(gathered.positives[_first_occurrences(gathered.positive_hash)]),
                ]
            )
            first, second = moments.unbind(1)
            mean_cosine, mean_squared_cosine = moments.detach().mean(0)
            return LossOutput(
                loss=(first.square() + (second - 1 / gathered.dim).relu()).sum(),
                metrics={"mean_cosine": mean_cosine, "mean_squared_cosine": mean_squared_cosine},
            )


def _moments(units: Float[Tensor, "texts dim"]) -> Float[Tensor, "2"]:
    """M1 and M2 of unit vectors, over the ordered pairs of two different ones."""
    squares = units.square().sum(1)
    total = units.sum(0).square().sum() - squares.sum()
    total_of_squares = (units.T @ units).square().sum() - squares.square().sum()
    return torch.stack([total, total_of_squares]) / max(1, len(units) * (len(units) - 1))


def _first_occurrences(hashes: Int[Tensor, " texts"]) -> Int[Tensor, " distinct"]:
    """The index of the first occurrence of each distinct text."""
    ordered, order = hashes.sort(stable=True)
    return order[torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])]
