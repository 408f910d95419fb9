"""An embedding step: where models, losses and ranks meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.distributed import all_gather_rows, all_gather_with_grad, gather_all_counts, rank, world_size
from qwen3emb_train.losses.by_task import TaskLosses, loss_of_task
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, matryoshka
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.models.precision import full_float32_products
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.gradient_cache import GradientCache, cut
from qwen3emb_train.training.health.non_finite import bad_queries
from qwen3emb_train.training.health.vectors import sum_over_ranks, vector_health, vector_metrics
from qwen3emb_train.training.objective import Metrics, ScalarMetrics


@dataclass(frozen=True, eq=False)
class StepVectors:
    """The vectors of a step, for the diagnostics; detached.

    Attributes:
        local: this rank's vectors.
        gathered: all ranks' vectors, where the loss needs them.
        first_query: index of this rank's first query among all ranks'.
        facts: of the loss that served the step.
    """

    local: Embeddings
    gathered: Embeddings | None
    first_query: int
    facts: Mapping[str, float]


@dataclass
class EmbeddingObjective:
    """Encode with gradient caching, gather what the loss needs, compute it, back-propagate its gradient.

    Attributes:
        engine: runs the encoder and carries gradients.
        loss: an embedding loss on Embeddings.
        matryoshka_dims: prefixes the loss is computed on; empty = the full vector only.
        tokens_per_chunk, retained_graph_tokens: see ``GradientCache``.
        task_losses: the losses of the tasks that ``loss`` does not serve.
        vectors: of the last step; None before the first, and after ``release``.
    """

    engine: Engine
    loss: EmbeddingLoss
    matryoshka_dims: Sequence[int] = ()
    tokens_per_chunk: int = 8192
    retained_graph_tokens: int = 0
    task_losses: TaskLosses = field(default_factory=TaskLosses)
    vectors: StepVectors | None = None

    def prepare(self, batch: EmbeddingBatch) -> EmbeddingBatch:
        """The batch with its texts cut to chunks."""
        shares = self.engine.model.shares_prefixes
        return replace(batch, chunks=tuple(cut(batch.texts, self.tokens_per_chunk, share=shares)))

    def forward_backward(self, batch: EmbeddingBatch) -> Metrics:
        cache = GradientCache(self.engine, self.tokens_per_chunk, self.retained_graph_tokens)
        encoded = cache.encode(batch.texts, batch.chunks)
        with full_float32_products():
            loss, metrics = self._loss(batch, encoded)
            # Only the vectors' gradient is wanted here: the encoder's graphs are pushed through by the cache.
            (gradient,) = torch.autograd.grad(loss, encoded)
        cache.backward(gradient)
        return {"loss": loss.detach(), **metrics}

    @torch.no_grad()
    def evaluate(self, batch: EmbeddingBatch) -> dict[str, Tensor]:
        """Sums over this rank's queries, without any gradient; the caller has put the model into eval mode."""
        cache = GradientCache(self.engine, self.tokens_per_chunk, 0)
        encoded = cache.encode(batch.texts, batch.chunks)
        with full_float32_products():
            loss, _ = self._loss(batch, encoded)
            assert self.vectors is not None
            ranks = ranks_of_positives(self.vectors.local)
        count = torch.tensor(len(ranks), device=loss.device)
        return {"loss": loss * count, "mrr": (1 / ranks).sum(), "accuracy_at_1": (ranks == 1).sum(), "queries": count}

    def held_out(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over queries: loss, mrr and accuracy_at_1 among the batch's documents."""
        count = sums["queries"].clamp(min=1)
        return {name: float(value / count) for name, value in sums.items() if name != "queries"}

    def diagnostics(self) -> ScalarMetrics:
        """Health metrics of the last step's vectors, of all ranks. Collective."""
        assert self.vectors is not None, "diagnostics follow a step"
        seen = self.vectors
        margin = seen.facts.get("false_negative_margin")
        sums = vector_health(seen.local, seen.gathered, seen.first_query, false_negative_margin=margin)
        facts = {name: value for name, value in seen.facts.items() if name == "temperature"}
        return vector_metrics(sum_over_ranks(sums)) | facts

    def bad_queries(self) -> list[int]:
        """This rank's queries of the last step of which a vector is not finite."""
        return [] if self.vectors is None else bad_queries(self.vectors.local)

    def release(self) -> None:
        """Drops the vectors of the last step."""
        self.vectors = None

    def _loss(self, batch: EmbeddingBatch, encoded: Tensor) -> tuple[Tensor, Metrics]:
        loss = loss_of_task(batch.task, self.loss, self.task_losses)
        local = embeddings_by_role(batch, encoded)
        gathered, first_query = None, 0
        if loss.needs_gathered:
            gathered, first_query = gather_embeddings(local, with_negatives=loss.needs_gathered_negatives)
        everything = None if gathered is None else gathered.detach()
        self.vectors = StepVectors(local.detach(), everything, first_query, loss.facts())
        result = matryoshka(loss, local, gathered, list(self.matryoshka_dims), first_query=first_query)
        return result.loss, result.metrics


def embeddings_by_role(batch: EmbeddingBatch, vectors: Tensor) -> Embeddings:
    """Vectors by role. A text in several roles receives the sum of their gradients."""
    device = vectors.device
    query_idx, positive_idx = (
        batch.query_idx.to(device, non_blocking=True),
        batch.positive_idx.to(device, non_blocking=True),
    )
    negative_idx, text_hash = (
        batch.negative_idx.to(device, non_blocking=True),
        batch.text_hash.to(device, non_blocking=True),
    )
    return Embeddings(
        queries=vectors[query_idx],
        positives=vectors[positive_idx],
        negatives=vectors[negative_idx],
        positive_query_idx=batch.positive_query_idx.to(device, non_blocking=True),
        negative_query_idx=batch.negative_query_idx.to(device, non_blocking=True),
        query_hash=text_hash[query_idx],
        positive_hash=text_hash[positive_idx],
        negative_hash=text_hash[negative_idx],
        positive_scores=None if batch.positive_scores is None else batch.positive_scores.to(device, non_blocking=True),
        negative_scores=None if batch.negative_scores is None else batch.negative_scores.to(device, non_blocking=True),
    )


def gather_embeddings(local: Embeddings, with_negatives: bool = True) -> tuple[Embeddings | None, int]:
    """All ranks' vectors in rank order with query indices numbered globally, and the index of this rank's first query.

    A mean over local queries then needs no factor: ranks are averaged, and every rank has equally many queries.

    Args:
        local: this rank's vectors.
        with_negatives: False: hard negatives are not gathered, because the step's loss does not use other ranks'.
    """
    if world_size() == 1:
        return None, 0
    roles = ("queries", "positives", "negatives")
    own = [len(local.queries), len(local.positives), len(local.negatives) if with_negatives else 0]
    of_ranks = zip(*gather_all_counts(own, local.queries.device), strict=True)
    counts = dict(zip(roles, of_ranks, strict=True))  # of all ranks, by role
    first_query = sum(counts["queries"][: rank()])
    numbered = replace(
        local,
        positive_query_idx=local.positive_query_idx + first_query,
        negative_query_idx=local.negative_query_idx + first_query,
    )
    if not with_negatives:
        numbered = replace(
            numbered,
            negatives=local.negatives[:0],
            negative_query_idx=local.negative_query_idx[:0],
            negative_hash=local.negative_hash[:0],
            negative_scores=None,
        )
    vectors = roles if with_negatives else roles[:2]
    plain = {"positive_query_idx": "positives", "query_hash": "queries", "positive_hash": "positives"}
    if with_negatives:
        plain |= {"negative_query_idx": "negatives", "negative_hash": "negatives"}
    # A step's rows come from one plan: either every rank has scores or none has (the collator sees to it).
    scores = {"positive_scores": "positives", "negative_scores": "negatives"}
    plain |= {name: role for name, role in scores.items() if getattr(numbered, name) is not None}
    gathered = {name: all_gather_with_grad(getattr(numbered, name), counts[name]) for name in vectors}
    gathered |= {
        name: torch.cat(all_gather_rows(getattr(numbered, name), counts[role])) for name, role in plain.items()
    }
    return replace(numbered, **gathered), first_query


def ranks_of_positives(local: Embeddings) -> Tensor:
    """The rank (from 1) of each local query's best positive among all ranks' positives and hard negatives.

    Documents with the text of a positive of the query are left out; equal scores count against the positive, so a
    collapsed encoder does not look perfect.
    """
    unit = torch.nn.functional.normalize
    documents = torch.cat([*all_gather_rows(local.positives), *all_gather_rows(local.negatives)])
    text_hash = torch.cat([*all_gather_rows(local.positive_hash), *all_gather_rows(local.negative_hash)])
    scores = unit(local.queries, dim=-1) @ unit(documents, dim=-1).T
    is_positive = torch.zeros_like(scores, dtype=torch.bool)
    for query, own in zip(local.positive_query_idx.tolist(), local.positive_hash, strict=True):
        is_positive[query] |= text_hash == own
    best = scores.masked_fill(~is_positive, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~is_positive).sum(1)
