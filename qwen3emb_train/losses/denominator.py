"""Z, the denominator of the softmax: which texts are no negatives of a pair, and what the others contribute.

Excluded whatever they score are a pair's own texts and those known by their hash. The third reason, a score too far
above the positive, is a comparison in ``tiles.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.embeddings import GatheredTexts, Pairs

_NO_TEXT = -1  # hashes are 0 or more

Keys = Sequence[tuple[Tensor, Tensor]]
"""For each reason, keys of the local pairs and of the gathered texts: a text that shares a key with a pair is no
negative of it.

Both are ``[items, slots]``, as wide as the item with the most keys; the others repeat one (``ragged.slots``).
"""


def query_keys(pairs: Pairs, gathered: GatheredTexts, identical: bool, same_query: bool) -> Keys:
    """What excludes queries: being the pair's own, sharing a positive with it, having the same text.

    Args:
        pairs: of this rank.
        gathered: all ranks' texts.
        identical, same_query: ``InfoNCE.mask_identical`` and ``mask_same_query``.
    """
    numbers = torch.arange(len(gathered.queries), device=pairs.query_number.device)
    keys = [(pairs.query_number[:, None], numbers[:, None])]
    if identical and _repeats(gathered.document_hash):
        keys.append((pairs.known_positives, gathered.document_hash[gathered.positive_slots]))
    if same_query and _repeats(gathered.query_hash):
        keys.append((pairs.query_hash[:, None], gathered.query_hash[:, None]))
    return keys


def document_keys(pairs: Pairs, gathered: GatheredTexts, identical: bool, same_query: bool) -> Keys:
    """What excludes documents: belonging to the pair's query, having the text of one of its positives, being a positive
    of an equal query.

    Args:
        pairs: of this rank.
        gathered: all ranks' texts.
        identical, same_query: ``InfoNCE.mask_identical`` and ``mask_same_query``.
    """
    keys = [(pairs.query_number[:, None], gathered.document_query_idx[:, None])]
    if identical and _repeats(gathered.document_hash):
        keys.append((pairs.known_positives, gathered.document_hash[:, None]))
    if same_query and _repeats(gathered.query_hash):
        answered = gathered.query_hash[gathered.document_query_idx]
        answered[gathered.num_positives :] = _NO_TEXT  # hard negatives answer no query
        keys.append((pairs.query_hash[:, None], answered[:, None]))
    return keys


def _repeats(hashes: Int[Tensor, " texts"]) -> bool:
    """Whether two texts are equal; if none are, only the pair's own texts can match."""
    return len(hashes.unique()) < len(hashes)


def have_same_key(keys: Keys, pairs: slice, texts: slice) -> Bool[Tensor, "pairs texts"]:
    """Which texts share a key with which pairs, for any reason.

    Args:
        keys: of all local pairs and all gathered texts of a role.
        pairs, texts: the ranges to compare.
    """
    first, second = keys[0]
    found = first[pairs] == second[texts, 0]
    for pair_keys, text_keys in keys[1:]:
        for text_key in _different(text_keys[texts]):
            for pair_key in _different(pair_keys[pairs]):
                found |= pair_key[:, None] == text_key
    return found


def _different(slots: Int[Tensor, "items slots"]) -> list[Tensor]:
    """The slots, without those that only repeat the one before: few items have the largest number of keys."""
    every = slots.unbind(1)
    return [slot for i, slot in enumerate(every) if i == 0 or not torch.equal(slot, every[i - 1])]


def own_documents(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs documents"]:
    """Which documents belong to the pair's own query."""
    return pairs.query_number[:, None] == gathered.document_query_idx


def known_positives(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs documents"]:
    """Which documents have the text of any positive of the pair's query: the report's d_j == d_i+."""
    return any_of(pairs.known_positives, gathered.document_hash)


def any_of(known: Int[Tensor, "pairs slots"], hashes: Int[Tensor, " texts"]) -> Bool[Tensor, "pairs texts"]:
    """Which texts have any of each pair's known hashes."""
    found = torch.zeros(len(known), len(hashes), dtype=torch.bool, device=known.device)
    for text in known.unbind(1):  # over slots: the largest number of positives of a query
        found |= text[:, None] == hashes
    return found


def sharing_queries(known: Bool[Tensor, "pairs documents"], gathered: GatheredTexts) -> Bool[Tensor, "pairs queries"]:
    """Which queries have a positive that is ``known`` as a positive of the pair's query."""
    found = torch.zeros(len(known), len(gathered.queries), dtype=torch.bool, device=known.device)
    for document in gathered.positive_slots.unbind(1):
        found |= known[:, document]
    return found


def repeated_queries(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs queries"]:
    """Which queries have the text of the pair's query."""
    return pairs.query_hash[:, None] == gathered.query_hash


def positives_of_repeated_queries(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs documents"]:
    """Which documents are positives of a query with the text of the pair's query; its hard negatives are not."""
    found = pairs.query_hash[:, None] == gathered.query_hash[gathered.document_query_idx]
    found[:, gathered.num_positives :] = False
    return found


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
            num_kept=ragged.count_items(pair, num_pairs, ~masked),
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
