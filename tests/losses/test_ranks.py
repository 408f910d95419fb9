"""Invariant of every loss: two ranks have the loss and the gradient of one, by the means that training uses.

Each rank holds half of the queries, gathers the columns with gradient, takes the loss and averages gradients, as DDP
does. A loss sees only what it says that it needs.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3emb_train.distributed import all_gather_rows, all_gather_with_grad, rank, world_size
from qwen3emb_train.losses.by_task import OWN_LOSS, TaskLosses, loss_of_task
from qwen3emb_train.losses.clustering import Clustering
from qwen3emb_train.losses.cosent import CoSENT
from qwen3emb_train.losses.distillation import Distillation, DistillationForm
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, matryoshka
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.losses.infonce import HardnessMode, InfoNCE
from qwen3emb_train.losses.label_contrast import LabelContrast
from qwen3emb_train.losses.spread_out import SpreadOut
from tests.losses.rows import embeddings_by_role, random_batch
from tests.ranks import run_on_ranks

NUM_QUERIES, DIM = 8, 6
ALL = TaskLosses(distillation_weight=0.5, spread_out_weight=0.3)
LOSSES: dict[str, EmbeddingLoss] = {
    "infonce": InfoNCE(tile_elements=40),
    "infonce, others' negatives": InfoNCE(gather_hard_negatives=True, hardness_strength=2.0),
    "infonce, own negatives": InfoNCE(
        query_query=False,
        document_document=False,
        query_document=False,
        hardness_strength=5.0,
        hardness_mode=HardnessMode.hard_negatives,
    ),
    "cosent": CoSENT(),
    "label contrast": LabelContrast(),
    "clustering": Clustering(tile_elements=40),
    "kl": Distillation(temperature=0.5),
    "margin mse": Distillation(DistillationForm.margin_mse),
    "spread out": SpreadOut(),
    **{f"{task}, all additions": loss_of_task(task, InfoNCE(), ALL) for task in ("retrieval", *OWN_LOSS)},
}


class WrongCoSENT(CoSENT):
    """What would be wrong: each rank orders its own pairs only."""

    def __call__(self, local, gathered=None, first_query=0):  # type: ignore[no-untyped-def]
        return super().__call__(local)


def vectors(weight: Tensor) -> Embeddings:
    """All vectors, encoded by a matrix. Ranks differ in documents and scored documents; they share texts."""
    batch = random_batch(5, NUM_QUERIES, most_positives=2, num_texts=14, dim=4, score_levels=4, unscored=0.25)
    for row in batch[:3]:
        row.scores = None  # the first rank has one scored row, the second four
    inputs = embeddings_by_role(batch)
    return replace(
        inputs,
        queries=inputs.queries.detach() @ weight,
        positives=inputs.positives.detach() @ weight,
        negatives=inputs.negatives.detach() @ weight,
    )


def share_of(whole: Embeddings, first: int, last: int) -> Embeddings:
    """The queries first..last and their documents, with owners counted from 0."""
    positive = (whole.positive_query_idx >= first) & (whole.positive_query_idx < last)
    negative = (whole.negative_query_idx >= first) & (whole.negative_query_idx < last)
    assert whole.positive_scores is not None
    assert whole.negative_scores is not None
    return Embeddings(
        queries=whole.queries[first:last],
        positives=whole.positives[positive],
        negatives=whole.negatives[negative],
        positive_query_idx=whole.positive_query_idx[positive] - first,
        negative_query_idx=whole.negative_query_idx[negative] - first,
        query_hash=whole.query_hash[first:last],
        positive_hash=whole.positive_hash[positive],
        negative_hash=whole.negative_hash[negative],
        positive_scores=whole.positive_scores[positive],
        negative_scores=whole.negative_scores[negative],
    )


def gathered(local: Embeddings, loss: EmbeddingLoss, first_query: int) -> Embeddings | None:
    """All ranks' vectors, as far as the loss needs them."""
    if not loss.needs_gathered:
        return None
    local = replace(
        local,
        positive_query_idx=local.positive_query_idx + first_query,
        negative_query_idx=local.negative_query_idx + first_query,
    )
    if not loss.needs_gathered_negatives:
        local = replace(
            local,
            negatives=local.negatives[:0],
            **{name: getattr(local, name)[:0] for name in ("negative_query_idx", "negative_hash", "negative_scores")},
        )
    names = [f"{role}_{kind}" for role in ("positive", "negative") for kind in ("query_idx", "hash", "scores")]
    return replace(
        local,
        queries=all_gather_with_grad(local.queries),
        positives=all_gather_with_grad(local.positives),
        negatives=all_gather_with_grad(local.negatives),
        **{name: torch.cat(all_gather_rows(getattr(local, name))) for name in [*names, "query_hash"]},
    )


def step(loss: EmbeddingLoss, dims: list[int]) -> tuple[float, Tensor]:
    """The mean over ranks of the loss and of the gradient."""
    weight = torch.randn(4, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    each = NUM_QUERIES // world_size()
    first = rank() * each
    rows = share_of(vectors(weight), first, first + each)
    all_ranks = gathered(rows, loss, first) if world_size() > 1 else None
    value = matryoshka(loss, rows, all_ranks, dims, first_query=0 if all_ranks is None else first).loss
    (gradient,) = torch.autograd.grad(value, weight)
    found = torch.cat([value.detach()[None], gradient.flatten()])
    if world_size() > 1:
        dist.all_reduce(found)
        found /= world_size()
    return float(found[0]), found[1:]


def all_steps(losses: dict[str, EmbeddingLoss]) -> dict[str, tuple[float, Tensor]]:
    torch.manual_seed(0)
    return {f"{name} {dims}": step(loss, dims) for name, loss in losses.items() for dims in ([], [3, DIM])}


def test_two_ranks_have_the_loss_and_the_gradient_of_one() -> None:
    wrong = WrongCoSENT()
    expected = all_steps(LOSSES | {"wrong": wrong})
    for of_rank in run_on_ranks(partial(all_steps, LOSSES | {"wrong": wrong}), 2):
        assert of_rank.keys() == expected.keys()
        for name, (value, gradient) in of_rank.items():
            close = torch.allclose(gradient, expected[name][1], atol=1e-10, rtol=1e-10)
            close &= abs(value - expected[name][0]) < 1e-10
            assert close == (not name.startswith("wrong")), name
            assert gradient.abs().max() > 1e-4, f"{name} tests nothing"
