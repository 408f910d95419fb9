"""What one optimizer step means: the only place where models, losses and ranks meet."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.distributed import all_gather_rows, all_gather_with_grad, gather_counts, rank, world_size
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.matryoshka import matryoshka
from qwen3emb_train.losses.representations import Representations
from qwen3emb_train.training.gradient_cache import GradientCache

Metrics = dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """One step's forward and backward pass; leaves gradients in the model."""

    def forward_backward(self, batch: EmbeddingBatch) -> Metrics:
        """Returns 0-dim tensors by name, among them ``loss``: this rank's share."""
        ...


@dataclass
class EmbeddingObjective:
    """Encode with gradient caching, gather all ranks' columns, take the loss, push its gradient back.

    Attributes:
        encode: tokens -> vectors: the encoder, wrapped for DDP where there are ranks, under autocast.
        loss: an embedding loss on Representations.
        matryoshka_dims: prefixes the loss is computed on; empty = the full vector only.
        tokens_per_chunk, tokens_with_graph: see ``GradientCache``.
        no_sync, backward_scalar: see ``GradientCache``.
        device: where the model is.
    """

    encode: Callable[[PackedTokens], Tensor]
    loss: EmbeddingLoss
    matryoshka_dims: Sequence[int] = ()
    tokens_per_chunk: int = 8192
    tokens_with_graph: int = 0
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    backward_scalar: Callable[[Tensor], None] = torch.Tensor.backward
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def forward_backward(self, batch: EmbeddingBatch) -> Metrics:
        cache = GradientCache(
            self.encode, self.tokens_per_chunk, self.tokens_with_graph, self.no_sync, self.backward_scalar
        )
        vectors = cache.encode(batch.texts.to(self.device))
        rows = represent(batch, vectors)
        columns, first_query = gather_columns(rows)
        result = matryoshka(self.loss, rows, columns, list(self.matryoshka_dims), first_query=first_query)
        # Only the vectors' gradient is wanted here: the encoder's graphs are pushed through by the cache.
        (gradient,) = torch.autograd.grad(result.loss, vectors)
        cache.backward(gradient)
        return {"loss": result.loss.detach(), **result.metrics}


def represent(batch: EmbeddingBatch, vectors: Tensor) -> Representations:
    """Vectors by role. A text in several roles receives the sum of their gradients."""
    device = vectors.device
    query_rows, positive_rows = batch.query_rows.to(device), batch.positive_rows.to(device)
    negative_rows, identity = batch.negative_rows.to(device), batch.identity.to(device)
    return Representations(
        queries=vectors[query_rows],
        positives=vectors[positive_rows],
        negatives=vectors[negative_rows],
        positive_owner=batch.positive_owner.to(device),
        negative_owner=batch.negative_owner.to(device),
        query_identity=identity[query_rows],
        positive_identity=identity[positive_rows],
        negative_identity=identity[negative_rows],
    )


def gather_columns(rows: Representations) -> tuple[Representations | None, int]:
    """All ranks' vectors in rank order with owners numbered globally, and this rank's first query number.

    A mean over local queries then needs no factor: DDP averages over ranks, and every rank has equally many queries.
    """
    if world_size() == 1:
        return None, 0
    first_query = sum(gather_counts(len(rows.queries), rows.queries.device)[: rank()])
    numbered = replace(
        rows,
        positive_owner=rows.positive_owner + first_query,
        negative_owner=rows.negative_owner + first_query,
    )
    return (
        Representations(
            queries=all_gather_with_grad(rows.queries),
            positives=all_gather_with_grad(rows.positives),
            negatives=all_gather_with_grad(rows.negatives),
            **{
                name: torch.cat(all_gather_rows(getattr(numbered, name)))
                for name in (
                    "positive_owner",
                    "negative_owner",
                    "query_identity",
                    "positive_identity",
                    "negative_identity",
                )
            },
        ),
        first_query,
    )
