"""Eq. 1 of arXiv 2506.05176 written out as loops over scalars: slow, and plain enough to be checked by eye.

Shares nothing with the package: neither code nor data structures. A batch is a list of ``Row``.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Text:
    """A text's vector and a number that stands for its characters."""

    vector: Tensor
    text: int


@dataclass
class Row:
    query: Text
    positives: list[Text]
    negatives: list[Text] = field(default_factory=list)
    scores: list[float] | None = None  # of the positives, then of the negatives


def cosine(a: Text, b: Text) -> Tensor:
    return (a.vector * b.vector).sum() / (a.vector.square().sum().sqrt() * b.vector.square().sum().sqrt())


def reference_infonce(
    batch: list[Row],
    local: range | None = None,
    *,
    temperature: float,
    positive_in_denominator: bool,
    hard_negatives: bool,
    query_query: bool,
    document_document: bool,
    query_document: bool,
    false_negative_margin: float | None,
    mask_hard_negatives: bool,
    document_document_threshold: str,
    mask_identical: bool,
    mask_same_query: bool,
    gather_hard_negatives: bool,
    hardness_strength: float,
    hardness_mode: str,
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of the queries ``local`` (all if None) against the whole batch, and its metrics."""
    local = range(len(batch)) if local is None else local
    query_losses, positive_cosines, effective, hardest, hardest_weights = [], [], [], [], []
    num_candidates = num_masked = 0

    for i in local:
        row = batch[i]
        positive_texts = {document.text for document in row.positives}
        pair_losses = []
        for positive in row.positives:
            positive_cosine = cosine(row.query, positive)

            def too_similar(score: Tensor, positive_cosine: Tensor = positive_cosine) -> bool:
                return (
                    false_negative_margin is not None and score.item() > positive_cosine.item() + false_negative_margin
                )

            # (score, masked, whether it is a query-document score), one for each cell that might stand in Z
            cells: list[tuple[Tensor, bool, bool]] = []
            num_own = 0
            if hard_negatives:
                for negative in row.negatives:
                    score = cosine(row.query, negative)
                    masked = (mask_hard_negatives and too_similar(score)) or (
                        mask_identical and negative.text in positive_texts
                    )
                    cells.append((score, masked, True))
                num_own = len(cells)
            for j, other in enumerate(batch):
                if j == i:
                    continue
                same_query = mask_same_query and other.query.text == row.query.text
                if query_query:
                    score = cosine(row.query, other.query)
                    shares_positive = any(document.text in positive_texts for document in other.positives)
                    masked = too_similar(score) or same_query or (mask_identical and shares_positive)
                    cells.append((score, masked, False))
                documents = [(document, same_query) for document in other.positives]
                if gather_hard_negatives:
                    documents += [(document, False) for document in other.negatives]
                for document, is_answer in documents:
                    known = is_answer or (mask_identical and document.text in positive_texts)
                    to_query, to_positive = cosine(row.query, document), cosine(positive, document)
                    if query_document:
                        cells.append((to_query, known or too_similar(to_query), True))
                    if document_document:
                        threshold = {
                            "none": False,
                            "query_document": too_similar(to_query),
                            "document_document": too_similar(to_positive),
                        }[document_document_threshold]
                        cells.append((to_positive, known or threshold, False))

            kept = [score for score, masked, _ in cells if not masked]
            z = []
            for number, (score, masked, _) in enumerate(cells):
                weighted = hardness_mode in (
                    "all_negatives",
                    "hard_negatives" if number < num_own else "in_batch_negatives",
                )
                weight = math.exp(hardness_strength * score.item()) if weighted else 1.0
                if not masked:
                    z.append(weight * torch.exp(score / temperature))
            if positive_in_denominator:
                z.append(torch.exp(positive_cosine / temperature))
            if z:
                pair_losses.append(-torch.log(torch.exp(positive_cosine / temperature) / sum(z)))
            else:
                pair_losses.append(positive_cosine * 0)

            num_candidates += len(cells)
            num_masked += len(cells) - len(kept)
            share = 1 / len(row.positives)
            positive_cosines.append(share * positive_cosine.item())
            effective.append(share * len(kept))
            to_documents = [score.item() for score, masked, is_document in cells if is_document and not masked]
            if to_documents:
                hardest.append(share * max(to_documents))
                hardest_weights.append(share)
        query_losses.append(torch.stack(pair_losses).mean())

    return torch.stack(query_losses).mean(), {
        "positive_cosine": sum(positive_cosines) / len(local),
        "hardest_negative_cosine": math.fsum(hardest) / math.fsum(hardest_weights) if hardest else -1.0,
        "masked_share": num_masked / max(num_candidates, 1),
        "effective_negatives": sum(effective) / len(local),
    }
