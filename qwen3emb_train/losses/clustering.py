"""Clustering: texts of one cluster should be closer to one another than to texts of other clusters.

This is supervised contrastive learning (Khosla et al. 2020, arXiv 2004.11362, Eq. 2) in the form that keeps an anchor's
other positives out of the denominator, where they would push texts of one cluster apart (SINCERE, Feeney and Hughes
2023, arXiv 2309.14277). For an anchor i with positives P(i) and negatives N(i), cosine s and temperature t

    L_i = mean over p in P(i) of -log(exp(s_ip / t) / (exp(s_ip / t) + sum over n in N(i) of exp(s_in / t)))

Anchors are queries. A cluster is identified by its texts: two rows are of the same cluster if a text of one (its query
or a positive) is a text of the other. So a positive may be the cluster's name, or another text of the cluster.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qwen3emb_train.losses import denominator, ragged
from qwen3emb_train.losses.denominator import Negatives
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings, GatheredTexts, Pairs, normalized
from qwen3emb_train.losses.temperature import require_temperature


@dataclass
class Clustering(EmbeddingLoss):
    """The mean of L_i over this rank's queries; see the module.

    P(i) are the gathered positives and queries of rows in i's cluster, except queries with i's own text; N(i) are the
    queries and positives of all other rows, and i's own hard negatives. Hard negatives of other queries are unused.
    A query without negatives contributes 0.

    Attributes:
        temperature: no report states one; 0.05.
        tile_elements: the largest number of scores in memory at once (at least one anchor's).

    Raises:
        ValueError: a setting is out of its range.
    """

    temperature: float = 0.05
    tile_elements: int = 2**24

    def __post_init__(self) -> None:
        require_temperature(self.temperature, of="Clustering", usual="0.05 is the default")
        if self.tile_elements < 1:
            raise ValueError(f"tile_elements={self.tile_elements} must be 1 or more; the default is {2**24}.")

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The mean over this rank's queries against all ranks' embeddings.

        Args:
            local, gathered, first_query: as in ``EmbeddingLoss``.

        Returns:
            The metrics are means over queries: ``positive_cosine``, ``effective_positives`` (the size of P(i)) and
            ``effective_negatives`` (of N(i)).

        Raises:
            ValueError: a query has no positive.
        """
        with torch.autocast(local.queries.device.type, enabled=False):
            local = normalized(local)
            gathered = local if gathered is None else normalized(gathered)
            texts = GatheredTexts.of(gathered, with_negatives=False)
            anchors = _anchors(local, first_query)
            own = self._own_negatives(local, anchors)
            anchors_per_block = max(1, self.tile_elements // (len(texts.queries) + len(texts.documents)))
            blocks = zip(anchors.split(anchors_per_block), own.log_sum.split(anchors_per_block), strict=True)
            found = [
                checkpoint(self._block, *block, texts, use_reentrant=False, preserve_rng_state=False)
                for block in blocks
            ]
            losses, cosines, num_positives, num_negatives = (torch.cat(parts) for parts in zip(*found, strict=True))
            return LossOutput(
                loss=losses.mean(),
                metrics={
                    "positive_cosine": cosines.detach().mean(),
                    "effective_positives": num_positives.to(losses.dtype).mean(),
                    "effective_negatives": (num_negatives + own.num_kept).to(losses.dtype).mean(),
                },
            )

    def _own_negatives(self, local: Embeddings, anchors: Pairs) -> Negatives:
        """Each anchor's hard negatives, except texts of its own cluster."""
        query_idx = local.negative_query_idx
        cosines = (local.queries[query_idx] * local.negatives).sum(-1)
        masked = (local.negative_hash[:, None] == anchors.known_positives[query_idx]).any(1)
        return Negatives.of_items(
            cosines, masked, query_idx, len(local.queries), self.temperature, hardness_strength=0.0
        )

    def _block(
        self, anchors: Pairs, own: Float[Tensor, " pairs"], gathered: GatheredTexts
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per anchor: loss, mean cosine of the positives, and numbers of positives and in-batch negatives."""
        known_documents = denominator.known_positives(anchors, gathered)
        same_queries = denominator.any_of(anchors.known_positives, gathered.query_hash)
        same_queries |= denominator.sharing_queries(known_documents, gathered)
        same_documents = known_documents | same_queries[:, gathered.document_query_idx]
        same = torch.cat([same_queries, same_documents], dim=1)
        cosines = torch.cat([anchors.queries @ gathered.queries.T, anchors.queries @ gathered.documents.T], dim=1)
        logits = cosines / self.temperature
        negatives = logits.masked_fill(same, ragged.floor_of(logits.dtype)).logsumexp(1).logaddexp(own)
        num_negatives = (~same).sum(1)

        same[:, : len(gathered.queries)] &= ~denominator.repeated_queries(anchors, gathered)
        num_positives = same.sum(1)
        losses = (negatives[:, None] - logits).logaddexp(torch.zeros_like(logits))
        mean_loss, mean_cosine = (torch.where(same, cell, 0.0).sum(1) / num_positives for cell in (losses, cosines))
        return mean_loss, mean_cosine, num_positives, num_negatives


def _anchors(local: Embeddings, first_query: int) -> Pairs:
    """One pair for each query; its ``known_positives`` are all texts of its row."""
    pairs = Pairs.of(local, first_query)
    anchors = pairs.select(ragged.slots(local.positive_query_idx, len(local.queries))[:, 0])
    return replace(anchors, known_positives=torch.cat([local.query_hash[:, None], anchors.known_positives], dim=1))
