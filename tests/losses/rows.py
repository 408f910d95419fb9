"""Makes batches for the loss tests, as rows and as the tensors that the losses take."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3emb_train.losses.representations import Representations
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
) -> list[Row]:
    """Random vectors; texts are drawn from ``num_texts``, so few texts make a dirty batch. Vectors are leaves."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def text() -> Text:
        vector = torch.randn(dim, generator=generator, dtype=dtype) * (0.5 + chance.random())
        return Text(vector.requires_grad_(), chance.randrange(num_texts))

    return [
        Row(
            text(),
            [text() for _ in range(chance.randint(1, most_positives))],
            [text() for _ in range(chance.randint(0, most_negatives))],
        )
        for _ in range(num_queries)
    ]


def leaves(batch: Sequence[Row]) -> list[Tensor]:
    """Every vector of a batch."""
    return [t.vector for row in batch for t in (row.query, *row.positives, *row.negatives)]


def represent(batch: Sequence[Row]) -> Representations:
    """The rows' vectors by role, differentiable with respect to the leaves; owners count from 0."""
    queries = [row.query for row in batch]
    positives = [document for row in batch for document in row.positives]
    negatives = [document for row in batch for document in row.negatives]

    def vectors(texts: list[Text]) -> Tensor:
        stacked = [t.vector for t in texts]
        return torch.stack(stacked) if stacked else batch[0].query.vector.new_zeros(0, len(batch[0].query.vector))

    def numbers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    return Representations(
        queries=vectors(queries),
        positives=vectors(positives),
        negatives=vectors(negatives),
        positive_owner=numbers([i for i, row in enumerate(batch) for _ in row.positives]),
        negative_owner=numbers([i for i, row in enumerate(batch) for _ in row.negatives]),
        query_identity=numbers([t.text for t in queries]),
        positive_identity=numbers([t.text for t in positives]),
        negative_identity=numbers([t.text for t in negatives]),
    )
