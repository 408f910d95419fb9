"""A reranking step: every chunk of documents is scored and back-propagated at once.

A point-wise loss is a sum over documents and a list-wise one a sum over queries, and the weights depend only on the
labels. So nothing is encoded twice and no graph outlives its chunk: gradient caching is not needed. The prompts
of a query's documents begin alike (system turn, instruction, query); a chunk holds a query's documents together and
that beginning is encoded once (``data.prefixes``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens, RerankingBatch, TextChunk, chunk_by_tokens
from qwen3emb_train.data.prefixes import share_prefixes, shared_length
from qwen3emb_train.distributed import gather_counts, world_size
from qwen3emb_train.losses.point_wise import PointWise
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.models.reranker import AnswerLogits
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.gradient_cache import split_to
from qwen3emb_train.training.health.answers import answer_health, answer_metrics, calibration_table
from qwen3emb_train.training.health.vectors import sum_over_ranks
from qwen3emb_train.training.objective import Metrics, ScalarMetrics


@dataclass(eq=False)
class _Chunk:
    documents: Tensor  # indices into the batch's documents, ascending
    tokens: PackedTokens
    is_filler: bool = False  # scored only because other ranks have more chunks: carries no gradient


@dataclass(frozen=True, eq=False)
class _Step:
    """The last step's logits of this rank's documents, detached."""

    targets: Targets
    outputs: Tensor  # [documents, 2 or 3], see AnswerLogits

    @property
    def score(self) -> Tensor:
        return AnswerLogits.of(self.outputs).score


@dataclass
class RerankingObjective:
    """Score chunk by chunk, compute each chunk's share of the loss, back-propagate it.

    Attributes:
        engine: runs a ``YesNoReranker`` and carries gradients.
        loss: a reranking loss on RerankerLogits; list-wise ones keep a query's documents in one chunk.
        tokens_per_chunk: token budget of a chunk; a larger query of a list-wise loss is one chunk.
        share_prefixes: encode a query's part of the prompts once. False is the plain form, for comparison.
    """

    engine: Engine
    loss: RerankingLoss = field(default_factory=PointWise)
    tokens_per_chunk: int = 8192
    share_prefixes: bool = True
    _last: _Step | None = None

    def prepare(self, batch: RerankingBatch) -> RerankingBatch:
        """The batch with its prompts cut to chunks."""
        return replace(batch, chunks=tuple(self._cut_to(batch, 1)))

    def forward_backward(self, batch: RerankingBatch) -> Metrics:
        """See ``Objective``. ``loss`` is this rank's share, such that the mean over ranks is the global batch's."""
        targets, totals, outputs = self._prepare(batch)
        chunks = self._cut(batch)
        loss = torch.zeros(len(totals), device=self.engine.device, dtype=torch.float64)
        for number, chunk in enumerate(chunks):
            last = number + 1 == len(chunks)
            output = self.engine.forward(chunk.tokens, last=last)
            share = self._share(targets, chunk, output, totals)
            self.engine.backward(share.sum(), last=last)
            if not chunk.is_filler:
                loss += share.detach()
                outputs[chunk.documents] = output.detach().to(outputs)
        self._last = _Step(targets, outputs)
        named = {f"{name}_loss": value for name, value in zip(self.loss.parts, loss, strict=True)}
        return {"loss": loss.sum()} | (named if len(named) > 1 else {})

    @torch.no_grad()
    def evaluate(self, batch: RerankingBatch) -> dict[str, Tensor]:
        """See ``Objective``."""
        targets, totals, outputs = self._prepare(batch)
        for chunk in self._cut(batch):
            output = self.engine.forward(chunk.tokens)
            if not chunk.is_filler:
                outputs[chunk.documents] = output.to(outputs)
        self._last = _Step(targets, outputs)
        logits = _reranker_logits(targets, outputs)
        count = torch.tensor(float(batch.num_queries), device=outputs.device)
        sums = {"loss": self._scaled(self.loss.share(logits, totals)).sum() * count, "queries": count}
        return sums | _reciprocal_ranks(logits) | answer_health(logits.score, targets)

    def held_out(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean loss; MRR among a query's documents, where both classes occur; AUC, calibration and the like."""
        metrics = {"loss": float(sums["loss"] / sums["queries"].clamp(min=1))}
        metrics["mrr"] = float(sums["reciprocal_rank"] / sums["ranked_queries"].clamp(min=1))
        named = {"auc": "auc", "accuracy_at_1": "best_is_relevant", "calibration_error": "calibration_error"}
        health = answer_metrics(sums)
        for name, source in named.items():
            if isinstance(value := health.get(f"health/{source}"), float):
                metrics[name] = value
        return metrics

    def diagnostics(self) -> ScalarMetrics:
        """Health metrics of the last step's answers, of all ranks. Collective."""
        assert self._last is not None, "diagnostics follow a step"
        sums = sum_over_ranks(answer_health(self._last.score, self._last.targets))
        bins = calibration_table(sums)
        return answer_metrics(sums) | {
            "health/calibration_documents": [float(one.documents) for one in bins],
            "health/calibration_probability": [one.probability for one in bins],
            "health/calibration_relevant_share": [one.relevant_share for one in bins],
        }

    def bad_queries(self) -> list[int]:
        """This rank's queries of the last step with a document whose logits are not finite."""
        if self._last is None:
            return []
        bad = ~self._last.outputs.isfinite().all(1)
        return self._last.targets.query[bad].unique().tolist()

    def release(self) -> None:
        """Drops the tensors of the last step."""
        self._last = None

    def _prepare(self, batch: RerankingBatch) -> tuple[Targets, Tensor, Tensor]:
        """Targets, the global batch's total weights, and a buffer for the model's outputs."""
        device = self.engine.device
        scores = None if batch.scores is None else batch.scores.to(device)
        targets = Targets(batch.labels.to(device), batch.query.to(device), scores)
        totals = self.loss.total_weights(targets).double()
        if world_size() > 1:
            dist.all_reduce(totals)
        return targets, totals, torch.zeros(len(batch.labels), 3 if self.loss.needs_vocabulary else 2, device=device)

    def _share(self, targets: Targets, chunk: _Chunk, output: Tensor, totals: Tensor) -> Tensor:
        if chunk.is_filler:
            return output.sum() * totals.new_zeros(len(totals))
        documents = chunk.documents.to(output.device)
        return self._scaled(self.loss.share(_reranker_logits(targets.select(documents), output), totals))

    def _scaled(self, share: Tensor) -> Tensor:
        """Engines average gradients over ranks; a share is a part of a sum over ranks."""
        return share * world_size()

    def _cut(self, batch: RerankingBatch) -> list[_Chunk]:
        device, chunks = self.engine.device, list(batch.chunks) or self._cut_to(batch, 1)
        fillers: list[_Chunk] = []
        if self.engine.lockstep:
            wanted = max(gather_counts(len(chunks), device))
            if wanted > len(chunks):
                chunks = self._cut_to(batch, wanted)
                shortest = batch.texts.lengths.argmin().view(1)
                filler = batch.texts.select(shortest).to(device)
                fillers = [_Chunk(shortest, filler, is_filler=True) for _ in range(wanted - len(chunks))]
        return fillers + [_Chunk(chunk.texts, chunk.tokens.to(device)) for chunk in chunks]

    def _cut_to(self, batch: RerankingBatch, wanted: int) -> list[TextChunk]:
        """Chunks within the budget, at least ``wanted`` where there are so many groups."""
        most = None if self.loss.needs_whole_queries else self.tokens_per_chunk
        groups = [group for documents in _by_query(batch) for group in self._groups(batch, documents, most)]
        sizes = torch.tensor([self._num_tokens(batch, group) for group in groups])
        chosen = split_to(chunk_by_tokens(sizes, self.tokens_per_chunk), wanted)
        return [self._chunk(batch, [groups[i] for i in some.tolist()]) for some in chosen]

    def _groups(self, batch: RerankingBatch, documents: Tensor, most_tokens: int | None) -> list[Tensor]:
        """The documents of a query; in several parts where they are more than ``most_tokens``."""
        if most_tokens is None or self._num_tokens(batch, documents) <= most_tokens:
            return [documents]
        parts = chunk_by_tokens(batch.texts.lengths[documents], most_tokens)
        return [documents[part.sort().values] for part in parts]

    def _num_tokens(self, batch: RerankingBatch, documents: Tensor) -> int:
        """Tokens encoded for these documents of a query."""
        total = int(batch.texts.lengths[documents].sum())
        if not self._shares or len(documents) == 1:
            return total
        return total - (len(documents) - 1) * shared_length(batch.texts, documents)

    @property
    def _shares(self) -> bool:
        return self.share_prefixes and self.engine.model.shares_prefixes

    def _chunk(self, batch: RerankingBatch, groups: list[Tensor]) -> TextChunk:
        documents = torch.cat(groups).sort().values
        tokens = batch.texts.select(documents)
        if self._shares:
            tokens = share_prefixes(tokens, batch.query[documents])
        return TextChunk(documents, tokens)


def _by_query(batch: RerankingBatch) -> tuple[Tensor, ...]:
    """The documents of each query that has any."""
    counts = torch.unique_consecutive(batch.query, return_counts=True)[1]
    return torch.arange(len(batch.query)).split(counts.tolist())


def _reranker_logits(targets: Targets, outputs: Tensor) -> RerankerLogits:
    answers = AnswerLogits.of(outputs)
    return RerankerLogits(targets, answers.yes, answers.no, answers.log_total)


def _reciprocal_ranks(logits: RerankerLogits) -> dict[str, Tensor]:
    """Over the queries with both classes: one over the rank of the best relevant document; ties count against it."""
    total, count = 0.0, 0
    owner, num_queries = logits.targets.groups()
    for query in range(num_queries):
        score, labels = logits.score[owner == query], logits.targets.labels[owner == query]
        if 0 < labels.sum() < len(labels):
            best = score[labels > 0].max()
            total += 1 / (1 + int((score[labels == 0] >= best).sum()))
            count += 1
    return {
        "reciprocal_rank": torch.tensor(total, device=logits.score.device),
        "ranked_queries": torch.tensor(float(count), device=logits.score.device),
    }
