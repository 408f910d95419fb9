"""Held-out rows during training: the loss, and how often the right document comes first among the batch's.

Batches of fixed rows, so figures of different steps compare; they run through the training engine and need no other
program. For nDCG on a real corpus there is ``evaluate``, on any checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3emb_train.data.training_data import TrainingData
from qwen3emb_train.distributed import all_gather_rows, rank, world_size
from qwen3emb_train.losses.representations import Representations
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.signals import StopSignal


class BestBy(str, Enum):
    """Which validation figure says that a checkpoint is the best."""

    mrr = "mrr"
    loss = "loss"


@dataclass
class ValidationConfig:
    """When held-out rows are looked at, and what for.

    Attributes:
        every: steps between validations; the last step always has one. null = only then.
        batch_size: queries of a validation batch, over all ranks.
        max_batches: of each source; null = all of its rows but a remainder.
        best_by: mrr (higher is better) or loss (lower): the checkpoint that is kept beyond ``keep_last``.
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
    """Runs the held-out batches of every source.

    Attributes:
        sources: their batches, by name.
        objective: of the training run.
        config: see there.
    """

    sources: Mapping[str, TrainingData]
    objective: EmbeddingObjective
    config: ValidationConfig

    def __call__(self, stop: StopSignal) -> dict[str, float] | None:
        """``validation/<source>/<figure>`` and their means over sources; None when a signal came to any rank meanwhile.

        Collective; the same result on every rank.
        """
        encoder = self.objective.engine.encoder
        encoder.eval()
        try:
            figures: dict[str, float] = {}
            for name, data in self.sources.items():
                found = self._source(data, stop)
                if found is None:
                    return None
                figures |= {f"validation/{name}/{figure}": value for figure, value in found.items()}
        finally:
            encoder.train()
            self.objective.release()
        for figure in ("loss", "mrr", "accuracy_at_1"):
            values = [figures[f"validation/{name}/{figure}"] for name in self.sources]
            figures[f"validation/{figure}"] = sum(values) / len(values)
        return figures

    def _source(self, data: TrainingData, stop: StopSignal) -> dict[str, float] | None:
        device = self.objective.engine.device
        sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, 1 / rank, first places, queries
        for step in range(min(data.steps, self.config.max_batches or data.steps)):
            if stop.on_any_rank(device):
                return None
            batch = data.batch(step, rank(), world_size())
            loss = self.objective.evaluate(batch)["loss"]
            assert self.objective.vectors is not None
            ranks = ranks_of_positives(self.objective.vectors.rows)
            found = [loss * len(ranks), (1 / ranks).sum(), (ranks == 1).sum(), torch.tensor(len(ranks))]
            sums += torch.stack([value.to(sums) for value in found])
        if world_size() > 1:
            dist.all_reduce(sums)
        loss, reciprocal, first, _ = (sums / sums[3].clamp(min=1)).tolist()
        return {"loss": loss, "mrr": reciprocal, "accuracy_at_1": first}


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
