"""What a set of negatives contributes to Z, the denominator of the softmax, and how contributions are summed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged


def weighted_logits(
    cosines: Float[Tensor, "..."], temperature: float, hardness_strength: float
) -> Float[Tensor, "..."]:
    """Logs of exp(hardness_strength * s) * exp(s / temperature); the first factor is a weight without gradient.

    Args:
        cosines: s.
        temperature, hardness_strength: as in ``InfoNCE``.
    """
    logits = cosines / temperature
    return logits + hardness_strength * cosines.detach() if hardness_strength else logits


@dataclass(frozen=True)
class Negatives:
    """The negatives of each pair, summed.

    Attributes:
        log_sum: log of the weighted sum of exp(score / temperature) over the unmasked ones; ``ragged.floor_of`` where
            there is none.
        num_candidates: number of negatives, masked ones included.
        num_kept: number of unmasked ones.
        hardest: the largest unmasked query-document cosine; -inf where there is none. Detached.
    """

    log_sum: Float[Tensor, " pairs"]
    num_candidates: Int[Tensor, " pairs"]
    num_kept: Int[Tensor, " pairs"]
    hardest: Float[Tensor, " pairs"]

    @staticmethod
    def of_items(
        cosines: Float[Tensor, " items"],
        masked: Bool[Tensor, " items"],
        pair: Int[Tensor, " items"],
        num_pairs: int,
        temperature: float,
        hardness_strength: float,
    ) -> "Negatives":
        """From a ragged list of query-document cosines.

        Args:
            cosines: of the pairs' queries and their negatives.
            masked: which of them do not count.
            pair: the pair of each item.
            num_pairs: number of pairs.
            temperature, hardness_strength: as in ``InfoNCE``.
        """
        logits = torch.where(
            masked, ragged.floor_of(cosines.dtype), weighted_logits(cosines, temperature, hardness_strength)
        )
        lowest = cosines.new_full((num_pairs,), -torch.inf)
        return Negatives(
            log_sum=ragged.segment_logsumexp(logits, pair, num_pairs),
            num_candidates=ragged.count_items(pair, num_pairs),
            num_kept=ragged.count_items(pair[~masked], num_pairs),
            hardest=ragged.segment_max(cosines.detach().masked_fill(masked, -torch.inf), pair, lowest),
        )

    @staticmethod
    def sum_of(parts: Sequence["Negatives"]) -> "Negatives":
        """Several sets of negatives of the same pairs as one."""
        return Negatives(
            log_sum=torch.stack([part.log_sum for part in parts]).logsumexp(0),
            num_candidates=torch.stack([part.num_candidates for part in parts]).sum(0),
            num_kept=torch.stack([part.num_kept for part in parts]).sum(0),
            hardest=torch.stack([part.hardest for part in parts]).amax(0),
        )
