"""Makes batches for the loss tests, as rows and as the tensors that the losses take."""

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qwen3emb_train.losses.embeddings import Embeddings
from tests.losses.infonce_reference import Row, Text


def random_batch(
    seed: int,
    num_queries: int,
    *,
    most_positives: int = 1,
    most_negatives: int = 2,
    num_texts: int = 1000,
    dim: int = 3,
    dtype: torch.dtype = torch.float64,
    score_levels: int | None = None,
    unscored: float = 0.0,
) -> list[Row]:
    """Random vectors; texts are drawn from ``num_texts``, so few texts make a dirty batch. Vectors are leaves.

    With ``score_levels`` every document has one of so many scores, or with probability ``unscored`` NaN.
    """
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def text() -> Text:
        vector = torch.randn(dim, generator=generator, dtype=dtype) * (0.5 + chance.random())
        return Text(vector.requires_grad_(), chance.randrange(num_texts))

    def score(levels: int) -> float:
        return math.nan if chance.random() < unscored else chance.randrange(levels) - 1.5

    rows = [
        Row(
            text(),
            [text() for _ in range(chance.randint(1, most_positives))],
            [text() for _ in range(chance.randint(0, most_negatives))],
        )
        for _ in range(num_queries)
    ]
    if score_levels is not None:
        for row in rows:
            row.scores = [score(score_levels) for _ in (*row.positives, *row.negatives)]
    return rows


def leaves(batch: Sequence[Row]) -> list[Tensor]:
    """Every vector of a batch."""
    return [t.vector for row in batch for t in (row.query, *row.positives, *row.negatives)]


def gradients(value: Tensor, batch: Sequence[Row]) -> Tensor:
    """The gradient of every vector, end to end; zero where it takes no part."""
    found = torch.autograd.grad(value, leaves(batch), allow_unused=True, materialize_grads=True, retain_graph=True)
    return torch.cat(found)


def assert_same(found: Tensor, wanted: Tensor, batch: Sequence[Row]) -> None:
    """Equal value and equal gradient of every vector, to 1e-10."""
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)
    gradient = gradients(found, batch)  # a loss has a graph even where it is 0: training differentiates every step
    expected = gradients(wanted, batch) if wanted.requires_grad else torch.zeros_like(gradient)
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-10)


def text(number: int, *components: float) -> Text:
    return Text(torch.tensor(components, dtype=torch.float64, requires_grad=True), number)


def embeddings_by_role(batch: Sequence[Row]) -> Embeddings:
    """The rows' vectors by role, differentiable with respect to the leaves; owners count from 0."""
    queries = [row.query for row in batch]
    positives = [document for row in batch for document in row.positives]
    negatives = [document for row in batch for document in row.negatives]

    def vectors(texts: list[Text]) -> Tensor:
        stacked = [t.vector for t in texts]
        return torch.stack(stacked) if stacked else batch[0].query.vector.new_zeros(0, len(batch[0].query.vector))

    def scores(of_row: Callable[[Row, list[float]], list[float]]) -> Tensor | None:
        if all(row.scores is None for row in batch):
            return None
        unknown = [[math.nan] * (len(row.positives) + len(row.negatives)) for row in batch]
        known = [row.scores or nans for row, nans in zip(batch, unknown, strict=True)]
        return torch.tensor([s for row, found in zip(batch, known, strict=True) for s in of_row(row, found)])

    def numbers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    return Embeddings(
        queries=vectors(queries),
        positives=vectors(positives),
        negatives=vectors(negatives),
        positive_query_idx=numbers([i for i, row in enumerate(batch) for _ in row.positives]),
        negative_query_idx=numbers([i for i, row in enumerate(batch) for _ in row.negatives]),
        query_hash=numbers([t.text for t in queries]),
        positive_hash=numbers([t.text for t in positives]),
        negative_hash=numbers([t.text for t in negatives]),
        positive_scores=scores(lambda row, found: found[: len(row.positives)]),
        negative_scores=scores(lambda row, found: found[len(row.positives) :]),
    )
