"""InfoNCE as the Qwen3-Embedding report defines it (arXiv 2506.05176, Eq. 1), with its open points as fields.

For each query i with positive d_i+, cosine s and temperature t the loss is -log(exp(s(q_i, d_i+) / t) / Z_i) with

    Z_i = exp(s(q_i, d_i+) / t)                           (1) positive_in_denominator
        + sum over k       of m_ik exp(s(q_i, d-_ik) / t) (2) hard_negatives, its own
        + sum over j != i  of m_ij exp(s(q_i, q_j) / t)   (3) query_query
        + sum over j != i  of m_ij exp(s(d_i+, d_j) / t)  (4) document_document
        + sum over j != i  of m_ij exp(s(q_i, d_j) / t)   (5) query_document

and m_ij = 0 where s_ij > s(q_i, d_i+) + 0.1 or d_j == d_i+ (a likely, or a certain, false negative), else 1.
With ``hardness_strength`` (not the report's; off by default) m_ij is exp(hardness_strength * s_ij) instead of 1.

Terms (3) to (5) are [local pairs x gathered texts] matrices, computed in tiles and recomputed in the backward pass
(``tiles.py``), so their memory does not grow with the batch, and for all Matryoshka prefixes at once.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses import denominator, ragged
from qwen3emb_train.losses.denominator import Negatives
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings, GatheredTexts, Pairs, normalized
from qwen3emb_train.losses.temperature import require_temperature
from qwen3emb_train.losses.tiles import TiledLogSum, Tiles, Vectors


class DocumentDocumentThreshold(str, Enum):
    """Which s_ij the margin compares in term (4).

    ``none``: the margin does not apply to (4), ms-swift's reading. ``query_document``: s(q_i, d_j), the report's own
    words. ``document_document``: s(d_i+, d_j), the score that stands in (4).
    """

    none = "none"
    query_document = "query_document"
    document_document = "document_document"


class HardnessMode(str, Enum):
    """The names are those of sentence-transformers.

    ``in_batch_negatives``: terms (3) to (5), as LLaVE (arXiv 2503.04812). ``hard_negatives``: term (2), as
    EmbeddingGemma (arXiv 2509.20354).
    """

    all_negatives = "all_negatives"
    in_batch_negatives = "in_batch_negatives"
    hard_negatives = "hard_negatives"


@dataclass
class InfoNCE(EmbeddingLoss):
    """The mean over queries of -log(exp(s+ / temperature) / Z); Eq. 1 of arXiv 2506.05176 and what it leaves open.

    The module has the terms of Z. A query with several positives is one softmax row for each of them, each weighted 1 /
    number of its positives; the others are never its negatives. Vectors come raw and are normalised here, in float32 at
    least.

    Attributes:
        temperature: never stated by the report; 0.02 is what llama-embed-nemotron-8b and QZhou use.
        positive_in_denominator: term (1), the positive itself. Off: decoupled contrastive learning, not the report's.
        hard_negatives: term (2), the query's own hard negatives.
        query_query: term (3), other queries. The report has it in both stages; its successor (arXiv 2601.04720) drops
            it in stage 2.
        document_document: term (4), other documents as seen from the positive; dropped likewise in stage 2.
        query_document: term (5), other queries' documents. Missing in the report's first version by mistake.
        false_negative_margin: in units of cosine, before the temperature: masks negatives that score *more* than this
            above the positive (strict; Eq. 1 says 0.1). null = no such mask. The comparison carries no gradient.
        mask_hard_negatives: whether the margin also applies to the query's own hard negatives; (2) carries an m_ik.
        document_document_threshold: the report defines s_ij as the "score of q_i,d_j or q_i,q_j", which leaves (4)
            open; the default is the former, s(q_i, d_j).
        mask_identical: Eq. 1's d_j == d_i+, by text hash. Masks documents in (2), (4), (5) that have the text of any
            positive of query i, and in (3) the queries j that share a positive text with it.
        mask_same_query: ours: a query j with the text of query i, and its positives, are not negatives of i.
        gather_hard_negatives: whether other queries' hard negatives are documents of (4) and (5) too. The report's
            second version says "other in-batch documents", its first "positive and negative documents".
        hardness_strength: weights each negative with exp(hardness_strength * its cosine), so that hard ones count more;
            the weight carries no gradient. LLaVE (arXiv 2503.04812) uses 9 on in-batch negatives, EmbeddingGemma (arXiv
            2509.20354) 5 on hard negatives. 0: off, as in the report.
        hardness_mode: which negatives ``hardness_strength`` weights.
        tile_elements: the largest number of scores in memory at once, over a tile's terms and prefixes. On a CPU tiles
            are smaller, to fit its cache.

    Raises:
        ValueError: a setting is out of its range, or no term with negatives is on.
    """

    temperature: float = 0.02
    positive_in_denominator: bool = True
    hard_negatives: bool = True
    query_query: bool = True
    document_document: bool = True
    query_document: bool = True
    false_negative_margin: float | None = 0.1
    mask_hard_negatives: bool = True
    document_document_threshold: DocumentDocumentThreshold = DocumentDocumentThreshold.query_document
    mask_identical: bool = True
    mask_same_query: bool = True
    gather_hard_negatives: bool = False
    hardness_strength: float = 0.0
    hardness_mode: HardnessMode = HardnessMode.all_negatives
    tile_elements: int = 2**24

    def __post_init__(self) -> None:
        require_temperature(self.temperature, of="InfoNCE", usual="usual values are 0.01 to 0.1")
        if self.false_negative_margin is not None and not self.false_negative_margin >= 0:
            raise ValueError(
                f"false_negative_margin={self.false_negative_margin} must be 0 or more, in units of cosine "
                "(the report: 0.1); null turns the margin off."
            )
        if not (self.hard_negatives or self.in_batch):
            raise ValueError(
                "No term with negatives is on: set at least one of hard_negatives, query_query, document_document, "
                "query_document to true."
            )
        if not 0 <= self.hardness_strength < math.inf:
            raise ValueError(
                f"hardness_strength={self.hardness_strength} must be 0 (off) or more; others use 5 (EmbeddingGemma) "
                "and 9 (LLaVE)."
            )
        if self.tile_elements < 1:
            raise ValueError(f"tile_elements={self.tile_elements} must be 1 or more; the default is {2**24}.")
        self._warn_without_effect()

    def _warn_without_effect(self) -> None:
        if self.gather_hard_negatives and not (self.query_document or self.document_document):
            warnings.warn(
                "gather_hard_negatives=true has no effect while query_document and document_document are both off.",
                stacklevel=4,
            )
        weighted = {
            HardnessMode.all_negatives: True,
            HardnessMode.in_batch_negatives: self.in_batch,
            HardnessMode.hard_negatives: self.hard_negatives,
        }[self.hardness_mode]
        if (self.hardness_strength > 0 and not weighted) or (
            self.hardness_strength == 0 and self.hardness_mode != HardnessMode.all_negatives
        ):
            warnings.warn(
                f"hardness_mode={self.hardness_mode.value} with hardness_strength={self.hardness_strength} has no "
                "effect: it needs a hardness_strength above 0 and a term with such negatives.",
                stacklevel=4,
            )
        chosen = self.document_document_threshold
        if chosen is not DocumentDocumentThreshold.query_document and not (
            self.document_document and self.false_negative_margin is not None
        ):
            warnings.warn(
                f"document_document_threshold={chosen.value} has no effect without document_document and a "
                "false_negative_margin.",
                stacklevel=4,
            )

    @property
    def in_batch(self) -> bool:
        """Whether any term uses other queries of the batch."""
        return self.query_query or self.document_document or self.query_document

    @property
    def needs_gathered(self) -> bool:
        return self.in_batch

    @property
    def needs_gathered_negatives(self) -> bool:
        return self.gather_hard_negatives and (self.document_document or self.query_document)

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The loss of this rank's queries against the documents and queries of all ranks.

        Args:
            local, gathered, first_query: as in ``on_prefixes``, which also lists the metrics.

        Raises:
            ValueError: as ``on_prefixes``.
        """
        return self.on_prefixes(local, gathered, [local.dim], first_query)[0]

    def on_prefixes(
        self, local: Embeddings, gathered: Embeddings | None, dims: Sequence[int], first_query: int = 0
    ) -> list[LossOutput]:
        """The loss on each prefix of the embeddings; the scores of all prefixes are computed in one pass.

        Args:
            local: this rank's embeddings, query indices counted from this rank's query 0. Its hard negatives are used
                in term (2).
            gathered: all ranks' embeddings in rank order with gradient, query indices counted over all queries; its
                negatives are used only with ``gather_hard_negatives``. None: ``local`` is the global batch.
            dims: prefix lengths, in any order.
            first_query: index of this rank's first query among all queries.

        Returns:
            For each of ``dims`` the mean over local queries. The metrics are means over queries too:
            ``positive_cosine``, ``hardest_negative_cosine`` (largest unmasked query-document cosine; queries without
            one do not count, and if none has one it is -1), ``effective_negatives`` (unmasked negatives in Z); and over
            all candidate negatives, ``masked_share``.

        Raises:
            ValueError: ``gathered`` does not contain all of this rank's queries, or a query has no positive.
        """
        num_queries = len((local if gathered is None else gathered).queries)
        if first_query + len(local.queries) > num_queries:
            raise ValueError(
                f"Local queries {first_query}..{first_query + len(local.queries) - 1} are not among the {num_queries} "
                "gathered queries. Pass all ranks' vectors in rank order, and the index of this rank's first query."
            )
        # Autocast would compute cosines in 16 bits: bfloat16 rounds them to 0.004, which is 0.2 at temperature 0.02.
        with torch.autocast(local.queries.device.type, enabled=False):
            ascending = sorted(dims)
            prefixes = [normalized(local.truncated(dim)) for dim in ascending]
            longest = prefixes[-1] if gathered is None else normalized(gathered.truncated(ascending[-1]))
            pairs = [Pairs.of(prefix, first_query) for prefix in prefixes]
            in_batch = self._in_batch(pairs, longest, ascending) if self.in_batch else []
            outputs = {}
            for i, dim in enumerate(ascending):
                parts = in_batch[i : i + 1]
                if self.hard_negatives:
                    parts.append(self._own_negatives(pairs[i], prefixes[i]))
                outputs[dim] = self._output(prefixes[i], pairs[i], Negatives.sum_of(parts))
            return [outputs[dim] for dim in dims]

    def _hardness(self, scope: HardnessMode) -> float:
        return self.hardness_strength if self.hardness_mode in (scope, HardnessMode.all_negatives) else 0.0

    def _output(self, local: Embeddings, pairs: Pairs, negatives: Negatives) -> LossOutput:
        """The mean of log(Z / exp(s+ / t)) over the pairs, and the metrics."""
        # Relative to the positive the sum is log(1 + x): exact for small losses, where log(Z) - s+ / t would cancel.
        excess = negatives.log_sum - pairs.positive_cosine / self.temperature
        if self.positive_in_denominator:
            losses = torch.logaddexp(excess, torch.zeros_like(excess))
        else:
            losses = torch.where(negatives.num_kept > 0, excess, 0.0)
        num_positives = ragged.count_items(local.positive_query_idx, len(local.queries))
        weights = 1 / (num_positives[local.positive_query_idx] * len(local.queries)).to(losses.dtype)
        found = negatives.hardest.isfinite()
        hardest = torch.where(found, negatives.hardest * weights, 0).sum() / torch.where(found, weights, 0).sum()
        num_candidates = negatives.num_candidates.sum().to(losses.dtype)
        num_masked = num_candidates - negatives.num_kept.sum()
        return LossOutput(
            loss=(weights * losses).sum(),
            metrics={
                "positive_cosine": (weights * pairs.positive_cosine.detach()).sum(),
                "hardest_negative_cosine": torch.where(found.any(), hardest, -1.0),
                "masked_share": num_masked / num_candidates.clamp(min=1),
                "effective_negatives": (weights * negatives.num_kept).sum(),
            },
        )

    def _limit(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        """Above this cosine a negative counts as a false one."""
        margin = math.inf if self.false_negative_margin is None else self.false_negative_margin
        return pairs.positive_cosine.detach() + margin

    def _own_negatives(self, pairs: Pairs, local: Embeddings) -> Negatives:
        """Term (2). It has one score for each of a pair's own negatives: no matrix, hence no tiles."""
        num_pairs = len(pairs.queries)
        cosines = (local.queries[local.negative_query_idx] * local.negatives).sum(-1)
        pair, negative = ragged.join(local.positive_query_idx, local.negative_query_idx, len(local.queries))
        cosines, hashes = cosines[negative], local.negative_hash[negative]
        masked = torch.zeros_like(cosines, dtype=torch.bool)
        if self.mask_hard_negatives:
            masked |= cosines > self._limit(pairs)[pair]
        if self.mask_identical:
            masked |= (hashes[:, None] == pairs.known_positives[pair]).any(1)
        hardness_strength = self._hardness(HardnessMode.hard_negatives)
        return Negatives.of_items(cosines, masked, pair, num_pairs, self.temperature, hardness_strength)

    def _in_batch(self, pairs: Sequence[Pairs], vectors: Embeddings, dims: Sequence[int]) -> list[Negatives]:
        """Terms (3) to (5) on each prefix.

        Args:
            pairs: on each prefix.
            vectors: all ranks' embeddings on the longest prefix.
            dims: prefix lengths, ascending.
        """
        own, gathered = pairs[-1], GatheredTexts.of(vectors, self.gather_hard_negatives)
        by_text = self.mask_identical, self.mask_same_query
        tiles = Tiles(
            dims=dims,
            num_pairs=len(own.queries),
            num_queries=len(gathered.queries),
            num_documents=len(gathered.documents),
            query_query=self.query_query,
            document_document=self.document_document,
            query_document=self.query_document,
            limit=torch.stack([self._limit(on_prefix) for on_prefix in pairs], dim=1),
            document_document_threshold=self.document_document_threshold.value,
            query_keys=denominator.query_keys(own, gathered, *by_text),
            document_keys=denominator.document_keys(own, gathered, *by_text),
            temperature=self.temperature,
            hardness_strength=self._hardness(HardnessMode.in_batch_negatives),
            tile_elements=self.tile_elements,
        )
        left = Vectors.of(torch.cat([own.queries, own.positives]), dims)
        right = Vectors.of(torch.cat([gathered.queries, gathered.documents]), dims)
        log_sum, num_excluded, hardest = TiledLogSum.apply(*left, *right, tiles)
        times = self.query_document + self.document_document  # in how many terms each document occurs
        num_texts = self.query_query * len(gathered.queries) + times * len(gathered.documents)
        num_own = ragged.count_items(gathered.document_query_idx, len(gathered.queries))[own.query_number]
        num_candidates = num_texts - (self.query_query + times * num_own)
        return [
            Negatives(log_sum[:, i], num_candidates, num_texts - num_excluded[:, i], hardest[:, i])
            for i in range(len(dims))
        ]
