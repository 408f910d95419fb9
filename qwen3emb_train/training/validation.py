"""Validation during training: held-out rows, and retrieval sets.

Held-out rows give the loss, and MRR and accuracy@1 among the batch's documents; batches have fixed rows, so metrics of
different steps compare. Retrieval sets give nDCG on a whole corpus (``retrieval_validation.py``). Both run
through the training engine and need no other program.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from qwen3emb_train.data.training_data import TrainingData
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.training.health.vectors import sum_over_ranks
from qwen3emb_train.training.objective import Objective
from qwen3emb_train.training.retrieval_validation import NDCG, ValidationSet, retrieval_metrics
from qwen3emb_train.training.signals import StopSignal


class BestBy(str, Enum):
    """``mrr`` and ``loss``: of held-out rows. ``ndcg``: of retrieval sets (``eval_sets``)."""

    mrr = "mrr"
    loss = "loss"
    ndcg = "ndcg"

    @property
    def metric(self) -> str:
        """Name of the metric among those of the validation."""
        return f"validation/{NDCG if self is BestBy.ndcg else self.value}"


@dataclass
class ValidationConfig:
    """When held-out rows and retrieval sets are evaluated, and which metric chooses the best checkpoint.

    Attributes:
        every: steps between validations; the last step always has one. null = only then.
        batch_size: queries of a validation batch, over all ranks.
        max_batches: of each source; null = all of its rows but a remainder.
        best_by: mrr (higher is better) or loss (lower) of held-out rows, or ndcg (higher) of retrieval sets, in the
            mean over sources or sets: the checkpoint that is kept beyond ``keep_last``.
    """

    every: int | None = None
    batch_size: int = 64
    max_batches: int | None = None
    best_by: BestBy = BestBy.mrr

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("batch_size", 2), ("max_batches", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"validation.{name} is {value}; use at least {least}.")

    def is_better(self, value: float, best: float | None) -> bool:
        if best is None:
            return True
        return value < best if self.best_by is BestBy.loss else value > best


@dataclass(frozen=True, eq=False)
class Validation:
    """Runs the held-out batches of every source, and every retrieval set.

    Attributes:
        sources: the batches, by name.
        objective: of the training run.
        config: its settings.
        sets: the retrieval sets, by name.
        tokens_per_chunk: tokens of a retrieval set that are encoded at once.
    """

    sources: Mapping[str, TrainingData[Any]]
    objective: Objective
    config: ValidationConfig
    sets: Mapping[str, ValidationSet] = field(default_factory=dict)
    tokens_per_chunk: int = 8192

    def __call__(self, stop: StopSignal) -> dict[str, float] | None:
        """``validation/<source or set>/<metric>`` and their means; None when a signal came to any rank meanwhile.

        Collective; the same result on every rank.
        """
        model = self.objective.engine.model
        model.eval()
        try:
            found: dict[str, dict[str, float]] = {}
            for name, data in self.sources.items():
                metrics = self._source(data, stop)
                if metrics is None:
                    return None
                found[name] = metrics
            for name, retrieval_set in self.sets.items():
                metrics = retrieval_metrics(retrieval_set, self.objective.engine, self.tokens_per_chunk, stop)
                if metrics is None:
                    return None
                found[name] = metrics
        finally:
            model.train()
            self.objective.release()
        named = {f"validation/{name}/{key}": value for name, one in found.items() for key, value in one.items()}
        for key in dict.fromkeys(key for one in found.values() for key in one):
            values = [one[key] for one in found.values() if key in one]
            named[f"validation/{key}"] = sum(values) / len(values)
        return named

    def _source(self, data: TrainingData[Any], stop: StopSignal) -> dict[str, float] | None:
        device = self.objective.engine.device
        sums: dict[str, Tensor] = {}
        for step in range(min(data.steps, self.config.max_batches or data.steps)):
            if stop.on_any_rank(device):
                return None
            found = self.objective.evaluate(data.batch(step, rank(), world_size()))
            sums = {name: value.double() + sums.get(name, 0.0) for name, value in found.items()}
        return self.objective.held_out(sum_over_ranks(sums))
