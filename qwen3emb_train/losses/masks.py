"""Which columns are no negatives of a pair, whatever they score: its own, and those known by their text.

The third reason, a score too far above the positive, is a comparison in ``infonce.py``.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qwen3emb_train.losses.pairs import Columns, Pairs


def own_queries(pairs: Pairs, columns: Columns) -> Bool[Tensor, "pairs queries"]:
    """Which query column is the pair's own query."""
    numbers = torch.arange(len(columns.queries), device=pairs.query_number.device)
    return pairs.query_number[:, None] == numbers


def own_documents(pairs: Pairs, columns: Columns) -> Bool[Tensor, "pairs documents"]:
    """Which documents belong to the pair's own query."""
    return pairs.query_number[:, None] == columns.document_owner


def known_positives(pairs: Pairs, columns: Columns) -> Bool[Tensor, "pairs documents"]:
    """Which documents have the text of any positive of the pair's query: the report's d_j == d_i+."""
    return any_of(pairs.known_positives, columns.document_identity)


def any_of(known: Int[Tensor, "pairs slots"], identity: Int[Tensor, " columns"]) -> Bool[Tensor, "pairs columns"]:
    """Which columns have any of the texts that each pair knows."""
    found = torch.zeros(len(known), len(identity), dtype=torch.bool, device=known.device)
    for text in known.unbind(1):  # over slots: as many as the richest query has positives
        found |= text[:, None] == identity
    return found


def sharing_queries(known: Bool[Tensor, "pairs documents"], columns: Columns) -> Bool[Tensor, "pairs queries"]:
    """Which queries own a positive that is ``known`` as a positive of the pair's query."""
    found = torch.zeros(len(known), len(columns.queries), dtype=torch.bool, device=known.device)
    for document in columns.positive_slots.unbind(1):
        found |= known[:, document]
    return found


def repeated_queries(pairs: Pairs, columns: Columns) -> Bool[Tensor, "pairs queries"]:
    """Which queries have the text of the pair's query."""
    return pairs.query_identity[:, None] == columns.query_identity


def positives_of_repeated_queries(pairs: Pairs, columns: Columns) -> Bool[Tensor, "pairs documents"]:
    """Which documents are positives of a query with the text of the pair's query; its hard negatives are not."""
    found = pairs.query_identity[:, None] == columns.query_identity[columns.document_owner]
    found[:, columns.num_positives :] = False
    return found
