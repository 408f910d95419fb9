"""A small reranking problem, and three optimizer steps of it on any engine.

Ragged everywhere: queries with 0 to 7 documents, with one class or two, beginnings that are worth sharing or not.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qwen3emb_train.data.batches import PackedTokens, RerankingBatch
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.losses.point_wise import PointWise
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.models.loading import ModelConfig, load_reranker
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.launch import Launch, build_engine
from qwen3emb_train.training.loop import seed_step
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.reranking_objective import RerankingObjective
from tests.training.engines.steps import Outcome

NUM_DOCUMENTS = (5, 1, 7, 0, 3, 6, 1, 4)
NUM_QUERIES = len(NUM_DOCUMENTS)
ANSWER_IDS = (7, 11)
NAMES = {True: "tied", False: "untied"}  # of the models' directories


@dataclass(frozen=True)
class Settings:
    """What is varied."""

    loss: RerankingLoss = field(default_factory=PointWise)
    tokens_per_chunk: int = 10_000
    share_prefixes: bool = True
    tied: bool = True  # the head is the embedding
    double: bool = True
    lora: int = 0
    dropout: float = 0.0  # of LoRA
    sync_every_chunk: bool = False
    wrong_factor: float = 1.0  # a mistake planted on purpose: the gradient of every rank but the first is scaled


def prompts_of(step: int, query: int) -> tuple[list[list[int]], list[float]]:
    """Token lists of a query's prompts, all queries' with the same first tokens, and their labels."""
    beginning = [*range(3, 13), *(3 + (31 * query + 7 * i + step) % 200 for i in range(10 + query))]
    length = 30 if query == 2 else 2
    ends = [
        [3 + (17 * n + 5 * i + query) % 200 for i in range(length + (n + query) % 7)]
        for n in range(NUM_DOCUMENTS[query])
    ]
    labels = [float(n == 0 or n == 3 + query % 3) for n in range(len(ends))]
    if query == 1:
        labels = [0.0]
    return [beginning + end for end in ends], labels


def batch_of(step: int, first: int = 0, last: int = NUM_QUERIES, *, with_scores: bool = False) -> RerankingBatch:
    """The queries ``first .. last - 1``; with scores, every third document has none."""
    prompts: list[list[int]] = []
    labels: list[float] = []
    owners: list[int] = []
    scores: list[float] = []
    for query in range(first, last):
        own, own_labels = prompts_of(step, query)
        prompts, labels, owners = prompts + own, labels + own_labels, owners + [query - first] * len(own)
        scores += [float("nan") if (query + n) % 3 == 0 else 0.7 * (query - 4) + n - 2 for n in range(len(own))]
    return RerankingBatch(
        texts=PackedTokens.from_lists(prompts),
        query=torch.tensor(owners),
        labels=torch.tensor(labels),
        num_queries=last - first,
        scores=torch.tensor(scores) if with_scores else None,
    )


def three_steps(models: str, settings: Settings, launch: Launch) -> Outcome:
    """
    Args:
        models: directory of the tied and the untied one.
    """
    torch.manual_seed(0)
    path = str(Path(models) / NAMES[settings.tied])
    config = ModelConfig(path=path, lora=LoraConfig(rank=settings.lora, dropout=settings.dropout))
    reranker = load_reranker(config, ANSWER_IDS, over_vocabulary=settings.loss.needs_vocabulary)
    if settings.double:
        reranker = reranker.double()
    engine = build_engine(
        launch, reranker, OptimizerConfig(lr=1e-3), Precision.fp32, max_grad_norm=1.0,
        sync_every_chunk=settings.sync_every_chunk,
    )  # fmt: skip
    objective = RerankingObjective(engine, settings.loss, settings.tokens_per_chunk, settings.share_prefixes)
    if settings.wrong_factor != 1.0 and rank() > 0:
        plain = engine.backward
        engine.backward = lambda scalar, *, last=False: plain(scalar * settings.wrong_factor, last=last)  # type: ignore[method-assign]
    share = NUM_QUERIES // world_size()
    losses, norms = [], []
    for step in range(3):
        seed_step(engine, 0, step)
        batch = batch_of(step, rank() * share, (rank() + 1) * share, with_scores=settings.loss.needs_scores)
        metrics = objective.forward_backward(batch)
        assert engine.finish_backward(1.0)
        norms.append(engine.update(1e-3))
        losses.append(float(metrics["loss"]))
    return Outcome(losses, norms, engine.gather_parameters())


def in_one_piece(settings: Settings) -> Settings:
    """The reference of a case: one chunk of whole prompts, nothing planted, in float64."""
    return replace(
        settings, tokens_per_chunk=10_000, share_prefixes=False, sync_every_chunk=False, wrong_factor=1.0, double=True
    )
