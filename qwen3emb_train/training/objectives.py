"""An embedding step: where models, losses and ranks meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.distributed import all_gather_rows, all_gather_with_grad, gather_counts, rank, world_size
from qwen3emb_train.losses.by_task import TaskLosses, loss_of_task
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.matryoshka import matryoshka
from qwen3emb_train.losses.representations import Representations
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.gradient_cache import GradientCache
from qwen3emb_train.training.health.non_finite import bad_queries
from qwen3emb_train.training.health.vectors import sum_over_ranks, vector_figures, vector_health
from qwen3emb_train.training.objective import Figures, Metrics


@dataclass(frozen=True, eq=False)
class StepVectors:
    """What a step computed on, for those who look at it afterwards. Without graph.

    Attributes:
        rows: this rank's vectors.
        columns: all ranks', where the loss asked for them.
        first_query: the number of this rank's first query among all.
    """

    rows: Representations
    columns: Representations | None
    first_query: int


@dataclass
class EmbeddingObjective:
    """Encode with gradient caching, gather what the loss looks at, take the loss, push its gradient back.

    Attributes:
        engine: runs the encoder and carries gradients.
        loss: an embedding loss on Representations.
        matryoshka_dims: prefixes the loss is computed on; empty = the full vector only.
        tokens_per_chunk, tokens_with_graph: see ``GradientCache``.
        task_losses: the losses of the tasks that ``loss`` does not serve.
        vectors: of the last step; None until there was one, and after ``release``.
    """

    engine: Engine
    loss: EmbeddingLoss
    matryoshka_dims: Sequence[int] = ()
    tokens_per_chunk: int = 8192
    tokens_with_graph: int = 0
    task_losses: TaskLosses = field(default_factory=TaskLosses)
    vectors: StepVectors | None = None

    def forward_backward(self, batch: EmbeddingBatch) -> Metrics:
        cache = GradientCache(self.engine, self.tokens_per_chunk, self.tokens_with_graph)
        encoded = cache.encode(batch.texts)
        loss, metrics = self._loss(batch, encoded)
        # Only the vectors' gradient is wanted here: the encoder's graphs are pushed through by the cache.
        (gradient,) = torch.autograd.grad(loss, encoded)
        cache.backward(gradient)
        return {"loss": loss.detach(), **metrics}

    @torch.no_grad()
    def evaluate(self, batch: EmbeddingBatch) -> dict[str, Tensor]:
        """Sums over this rank's queries, without any gradient; the caller has put the model into eval mode."""
        cache = GradientCache(self.engine, self.tokens_per_chunk, 0)
        loss, _ = self._loss(batch, cache.encode(batch.texts))
        assert self.vectors is not None
        ranks = ranks_of_positives(self.vectors.rows)
        count = torch.tensor(len(ranks), device=loss.device)
        return {"loss": loss * count, "mrr": (1 / ranks).sum(), "accuracy_at_1": (ranks == 1).sum(), "queries": count}

    def held_out(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over queries: loss, mrr and accuracy_at_1 among the batch's documents."""
        count = sums["queries"].clamp(min=1)
        return {name: float(value / count) for name, value in sums.items() if name != "queries"}

    def look(self) -> Figures:
        """Health figures of the last step's vectors, of all ranks. Collective."""
        assert self.vectors is not None, "look follows a step"
        margin = self.loss.false_negative_margin if isinstance(self.loss, InfoNCE) else None
        seen = self.vectors
        sums = vector_health(seen.rows, seen.columns, seen.first_query, false_negative_margin=margin)
        figures = dict(vector_figures(sum_over_ranks(sums)))
        return figures | ({"temperature": self.loss.temperature} if isinstance(self.loss, InfoNCE) else {})

    def bad_queries(self) -> list[int]:
        """This rank's queries of the last step of which a vector is not finite."""
        return [] if self.vectors is None else bad_queries(self.vectors.rows)

    def release(self) -> None:
        """Lets go of the last step's vectors."""
        self.vectors = None

    def _loss(self, batch: EmbeddingBatch, encoded: Tensor) -> tuple[Tensor, Metrics]:
        loss = loss_of_task(batch.task, self.loss, self.task_losses)
        rows = represent(batch, encoded)
        columns, first_query = None, 0
        if loss.needs_columns:
            columns, first_query = gather_columns(rows, with_negatives=loss.needs_negative_columns)
        self.vectors = StepVectors(rows.detach(), None if columns is None else columns.detach(), first_query)
        result = matryoshka(loss, rows, columns, list(self.matryoshka_dims), first_query=first_query)
        return result.loss, result.metrics


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
        positive_scores=None if batch.positive_scores is None else batch.positive_scores.to(device),
        negative_scores=None if batch.negative_scores is None else batch.negative_scores.to(device),
    )


def gather_columns(rows: Representations, with_negatives: bool = True) -> tuple[Representations | None, int]:
    """All ranks' vectors in rank order with owners numbered globally, and this rank's first query number.

    A mean over local queries then needs no factor: ranks are averaged, and every rank has equally many queries.

    Args:
        with_negatives: false: other ranks' hard negatives, which no loss of the step looks at, stay where they are.
    """
    if world_size() == 1:
        return None, 0
    first_query = sum(gather_counts(len(rows.queries), rows.queries.device)[: rank()])
    numbered = replace(
        rows,
        positive_owner=rows.positive_owner + first_query,
        negative_owner=rows.negative_owner + first_query,
    )
    if not with_negatives:
        numbered = replace(
            numbered,
            negatives=rows.negatives[:0],
            negative_owner=rows.negative_owner[:0],
            negative_identity=rows.negative_identity[:0],
            negative_scores=None,
        )
    vectors = ["queries", "positives"] + (["negatives"] if with_negatives else [])
    plain = ["positive_owner", "query_identity", "positive_identity"]
    plain += ["negative_owner", "negative_identity"] if with_negatives else []
    # A step's rows come from one plan: either every rank has scores or none has (the collator sees to it).
    plain += [name for name in ("positive_scores", "negative_scores") if getattr(numbered, name) is not None]
    gathered = {name: all_gather_with_grad(getattr(numbered, name)) for name in vectors}
    gathered |= {name: torch.cat(all_gather_rows(getattr(numbered, name))) for name in plain}
    return replace(numbered, **gathered), first_query


def ranks_of_positives(rows: Representations) -> Tensor:
    """The place (from 1) of each local query's best positive among all ranks' positives and hard negatives.

    Documents with the text of a positive of the query are left out; equal scores count against the positive, so a
    collapsed encoder does not look perfect.
    """
    unit = torch.nn.functional.normalize
    documents = torch.cat([*all_gather_rows(rows.positives), *all_gather_rows(rows.negatives)])
    identity = torch.cat([*all_gather_rows(rows.positive_identity), *all_gather_rows(rows.negative_identity)])
    scores = unit(rows.queries, dim=-1) @ unit(documents, dim=-1).T
    is_positive = torch.zeros_like(scores, dtype=torch.bool)
    for owner, own in zip(rows.positive_owner.tolist(), rows.positive_identity, strict=True):
        is_positive[owner] |= identity == own
    best = scores.masked_fill(~is_positive, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~is_positive).sum(1)
