"""Which columns are no negatives of a pair, whatever they score: its own, and those known by their text.

The third reason, a score too far above the positive, is a comparison in ``tiles.py``.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qwen3emb_train.losses.pairs import GatheredTexts, Pairs

_NO_TEXT = -1  # hashes are 0 or more

Keys = Sequence[tuple[Tensor, Tensor]]
"""For each reason, keys of every pair and of every column: a column that shares one with a pair is no negative of it.

Both are ``[items, slots]``, as wide as the item with the most keys; the others repeat one (``ragged.slots``).
"""


def query_keys(pairs: Pairs, gathered: GatheredTexts, identical: bool, same_query: bool) -> Keys:
    """What excludes queries: being the pair's own, sharing a positive with it, having the same text."""
    numbers = torch.arange(len(gathered.queries), device=pairs.query_number.device)
    keys = [(pairs.query_number[:, None], numbers[:, None])]
    if identical and _repeats(gathered.document_hash):
        keys.append((pairs.known_positives, gathered.document_hash[gathered.positive_slots]))
    if same_query and _repeats(gathered.query_hash):
        keys.append((pairs.query_hash[:, None], gathered.query_hash[:, None]))
    return keys


def document_keys(pairs: Pairs, gathered: GatheredTexts, identical: bool, same_query: bool) -> Keys:
    """What excludes documents: belonging to the pair's query, being known as a positive, answering the same text."""
    keys = [(pairs.query_number[:, None], gathered.document_query_idx[:, None])]
    if identical and _repeats(gathered.document_hash):
        keys.append((pairs.known_positives, gathered.document_hash[:, None]))
    if same_query and _repeats(gathered.query_hash):
        answered = gathered.query_hash[gathered.document_query_idx]
        answered[gathered.num_positives :] = _NO_TEXT  # hard negatives answer nothing
        keys.append((pairs.query_hash[:, None], answered[:, None]))
    return keys


def _repeats(hashes: Int[Tensor, " texts"]) -> bool:
    """Whether two texts are equal; else a text gives away only what is the pair's own."""
    return len(hashes.unique()) < len(hashes)


def have_same_key(keys: Keys, pairs: slice, columns: slice) -> Bool[Tensor, "rows columns"]:
    """Which of some columns share a key with which of some pairs, for any reason."""
    first, second = keys[0]
    found = first[pairs] == second[columns, 0]
    for of_pairs, of_columns in keys[1:]:
        for theirs in _different(of_columns[columns]):
            for own in _different(of_pairs[pairs]):
                found |= own[:, None] == theirs
    return found


def _different(slots: Int[Tensor, "items slots"]) -> list[Tensor]:
    """The slots, without those that only repeat: few items have as many keys as the richest."""
    every = slots.unbind(1)
    return [slot for i, slot in enumerate(every) if i == 0 or not torch.equal(slot, every[i - 1])]


def own_documents(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs documents"]:
    """Which documents belong to the pair's own query."""
    return pairs.query_number[:, None] == gathered.document_query_idx


def known_positives(pairs: Pairs, gathered: GatheredTexts) -> Bool[Tensor, "pairs documents"]:
    """Which documents have the text of any positive of the pair's query: the report's d_j == d_i+."""
    return any_of(pairs.known_positives, gathered.document_hash)


def any_of(known: Int[Tensor, "pairs slots"], hashes: Int[Tensor, " columns"]) -> Bool[Tensor, "pairs columns"]:
    """Which columns have any of the texts that each pair knows."""
    found = torch.zeros(len(known), len(hashes), dtype=torch.bool, device=known.device)
    for text in known.unbind(1):  # over slots: as many as the richest query has positives
        found |= text[:, None] == hashes
    return found


def sharing_queries(known: Bool[Tensor, "pairs documents"], gathered: GatheredTexts) -> Bool[Tensor, "pairs queries"]:
    """Which queries own a positive that is ``known`` as a positive of the pair's query."""
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
