"""Makes judged documents for the tests of reranking losses, and plain loops over their formulas."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets

YES, NO, VOCABULARY = 5, 2, 11


@dataclass
class Judged:
    """Documents with a full row of logits each. Logits are a leaf; queries have numbers with gaps."""

    logits: Tensor
    targets: Targets

    def reranker_logits(self, documents: slice = slice(None)) -> RerankerLogits:
        logits = self.logits[documents]
        return RerankerLogits(self.targets.select(documents), logits[:, YES], logits[:, NO], logits.logsumexp(1))

    def queries(self) -> list[list[int]]:
        """The documents of each query."""
        numbers = self.targets.query.tolist()
        return [[i for i, number in enumerate(numbers) if number == query] for query in dict.fromkeys(numbers)]


def random_judged(
    seed: int,
    num_queries: int,
    *,
    most_documents: int = 6,
    relevant: float = 0.4,
    unscored: float | None = 0.3,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Judged:
    """Ragged queries; ``unscored`` documents have no teacher's score, None = no scores at all."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    query = [number for i in range(num_queries) for number in [3 * i + 1] * chance.randint(1, most_documents)]
    labels = torch.tensor([float(chance.random() < relevant) for _ in query], dtype=dtype)
    scores = [math.nan if chance.random() < (unscored or 0) else chance.gauss(0, 3) for _ in query]
    logits = spread * torch.randn(len(query), VOCABULARY, generator=generator, dtype=dtype)
    teacher = None if unscored is None else torch.tensor(scores, dtype=dtype)
    return Judged(logits.requires_grad_(), Targets(labels, torch.tensor(query), teacher))


def gradient(value: Tensor, judged: Judged) -> Tensor:
    return torch.autograd.grad(value, judged.logits, retain_graph=True)[0]


# ------------------------------------------------------------------------------------- the formulas, one unit at a time

Reference = Callable[[Judged], tuple[Tensor, float]]
"""Gives the weighted sum over units, and their total weight."""


def point_wise(answers: str, positive_weight: float, smoothing: float) -> Reference:
    def reference(judged: Judged) -> tuple[Tensor, float]:
        total, weights = judged.logits.sum() * 0, 0.0
        for logits, label in zip(judged.logits, judged.targets.labels.tolist(), strict=True):
            rivals = logits if answers == "full_vocabulary" else logits[[YES, NO]]
            log_p = [logits[token] - rivals.exp().sum().log() for token in (NO, YES)]
            right, wrong = log_p[int(label)], log_p[1 - int(label)]
            weight = positive_weight if label else 1.0
            total = total - weight * ((1 - smoothing / 2) * right + smoothing / 2 * wrong)
            weights += weight
        return total, weights

    return reference


def by_query(loss: Callable[[Tensor, Sequence[float]], Tensor | None]) -> Reference:
    """The sum over queries of what the loss makes of scores and labels; None: the query is no unit."""

    def reference(judged: Judged) -> tuple[Tensor, float]:
        score = judged.logits[:, YES] - judged.logits[:, NO]
        labels = judged.targets.labels.tolist()
        found = [loss(score[documents], [labels[i] for i in documents]) for documents in judged.queries()]
        units = [unit for unit in found if unit is not None]
        return sum(units, judged.logits.sum() * 0), float(len(units))

    return reference


def rank_net(temperature: float) -> Reference:
    def loss(score: Tensor, labels: Sequence[float]) -> Tensor | None:
        pairs = [
            (1 + (-(score[i] - score[j]) / temperature).exp()).log()
            for i, label in enumerate(labels)
            for j, other in enumerate(labels)
            if label > other
        ]
        return torch.stack(pairs).mean() if pairs else None

    return by_query(loss)


def list_net(temperature: float) -> Reference:
    def loss(score: Tensor, labels: Sequence[float]) -> Tensor | None:
        if len(set(labels)) < 2:
            return None
        log_p = (score / temperature).log_softmax(0)
        return -torch.stack([log_p[i] for i, label in enumerate(labels) if label]).mean()

    return by_query(loss)


def reranker_distillation(form: str, temperature: float, teacher_temperature: float) -> Reference:
    def reference(judged: Judged) -> tuple[Tensor, float]:
        score = judged.logits[:, YES] - judged.logits[:, NO]
        assert judged.targets.scores is not None
        teacher = judged.targets.scores / teacher_temperature
        units = []
        for documents in judged.queries():
            known = [i for i in documents if not math.isnan(float(teacher[i]))]
            if form == "kl" and len(known) > 1:
                p, q = teacher[known].softmax(0), (score[known] / temperature).softmax(0)
                units.append((p * (p / q).log()).sum())
            elif form == "mse":
                units += [(score[i] - teacher[i]) ** 2 for i in known]
            elif form == "bce":
                p, q = teacher.sigmoid(), score.sigmoid()
                units += [-(p[i] * q[i].log() + (1 - p[i]) * (1 - q[i]).log()) for i in known]
        return sum(units, judged.logits.sum() * 0), float(len(units))

    return reference
