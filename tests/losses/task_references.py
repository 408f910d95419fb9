"""The losses of the tasks written out as loops over scalars, straight from their formulas, for comparison."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.losses.infonce_reference import Row, Text, cosine


def pairs_with_scores(batch: Sequence[Row]) -> list[tuple[Tensor, float]]:
    """Cosine and score of every (query, document) that has a score."""
    return [
        (cosine(row.query, document), score)
        for row in batch
        if row.scores is not None
        for document, score in zip([*row.positives, *row.negatives], row.scores, strict=True)
        if not math.isnan(score)
    ]


def reference_cosent(batch: Sequence[Row], temperature: float) -> Tensor:
    total = torch.ones((), dtype=torch.float64)
    pairs = pairs_with_scores(batch)
    for cosine_i, gold_i in pairs:
        for cosine_j, gold_j in pairs:
            if gold_i > gold_j:
                total = total + torch.exp((cosine_j - cosine_i) / temperature)
    return torch.log(total)


def reference_label_contrast(batch: Sequence[Row], temperature: float) -> Tensor:
    losses = []
    for row in batch:
        right = {label.text for label in row.positives}
        wrong = [torch.exp(cosine(row.query, t) / temperature) for t in row.negatives if t.text not in right]
        own = [torch.exp(cosine(row.query, t) / temperature) for t in row.positives]
        losses.append(torch.stack([-torch.log(e / (e + sum(wrong))) for e in own]).mean())
    return torch.stack(losses).mean()


def reference_clustering(
    batch: Sequence[Row], temperature: float, local: range | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss of the queries ``local`` and its metrics."""
    losses, cosines, num_positives, num_negatives = [], [], [], []
    for i in range(len(batch)) if local is None else local:
        anchor = batch[i]
        texts = {anchor.query.text, *(t.text for t in anchor.positives)}
        same: list[Text] = []
        other: list[Text] = [t for t in anchor.negatives if t.text not in texts]
        for j, row in enumerate(batch):
            of_one_cluster = bool(texts & {row.query.text, *(t.text for t in row.positives)})
            if of_one_cluster:
                same += row.positives
                if j != i and row.query.text != anchor.query.text:
                    same.append(row.query)
            else:
                other += [row.query, *row.positives]
        z = sum(torch.exp(cosine(anchor.query, t) / temperature) for t in other)
        found = [cosine(anchor.query, t) for t in same]
        losses.append(torch.stack([-torch.log((c / temperature).exp() / ((c / temperature).exp() + z)) for c in found]))
        cosines.append(torch.stack(found).mean().item())
        num_positives.append(len(same))
        num_negatives.append(len(other))
    return torch.stack([loss.mean() for loss in losses]).mean(), {
        "positive_cosine": sum(cosines) / len(cosines),
        "effective_positives": sum(num_positives) / len(losses),
        "effective_negatives": sum(num_negatives) / len(losses),
    }


def reference_kl(batch: Sequence[Row], temperature: float, teacher_temperature: float) -> tuple[Tensor, float]:
    """Mean loss and the share of queries with two scored documents."""
    total, compared = torch.zeros((), dtype=torch.float64), 0
    for row in batch:
        pairs = pairs_with_scores([row])
        if len(pairs) < 2:
            continue
        compared += 1
        student = [torch.exp(c / temperature) for c, _ in pairs]
        teacher = [math.exp(s / teacher_temperature) for _, s in pairs]
        for e, t in zip(student, teacher, strict=True):
            p, q = t / sum(teacher), e / sum(student)
            total = total + p * (math.log(p) - torch.log(q))
    return total / len(batch), compared / len(batch)


def reference_margin_mse(batch: Sequence[Row], cosine_per_score: float) -> tuple[Tensor, float]:
    """Mean loss and the share of queries with a scored positive and a scored negative."""
    total, compared = torch.zeros((), dtype=torch.float64), 0
    for row in batch:
        scores = row.scores or [math.nan] * (len(row.positives) + len(row.negatives))
        count = len(row.positives)
        errors = [
            (cosine(row.query, p) - cosine(row.query, n) - cosine_per_score * (s - r)) ** 2
            for p, s in zip(row.positives, scores[:count], strict=True)
            for n, r in zip(row.negatives, scores[count:], strict=True)
            if not math.isnan(s - r)
        ]
        if errors:
            compared += 1
            total = total + torch.stack(errors).mean()
    return total / len(batch), compared / len(batch)


def reference_spread_out(batch: Sequence[Row]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for texts in ([row.query for row in batch], [t for row in batch for t in row.positives]):
        distinct = [t for n, t in enumerate(texts) if t.text not in {earlier.text for earlier in texts[:n]}]
        cosines = [cosine(a, b) for a in distinct for b in distinct if a is not b]
        if cosines:
            found = torch.stack(cosines)
            excess = found.square().mean() - 1 / len(texts[0].vector)
            total = total + found.mean() ** 2 + (excess if excess > 0 else 0)
    return total
