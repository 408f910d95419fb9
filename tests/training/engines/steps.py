"""Three optimizer steps of a small problem on any engine: what every exactness test compares."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.launch import Launch, build_engine, start
from qwen3emb_train.training.loop import seed_step
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig

NUM_QUERIES = 8


@dataclass(frozen=True)
class Settings:
    """What is varied."""

    tokens_per_chunk: int = 10_000
    retained_graph_tokens: int = 0
    dims: tuple[int, ...] = ()
    double: bool = True
    lora: int = 0
    dropout: float = 0.0  # of LoRA
    sync_every_chunk: bool = False
    wrong_factor: float = 1.0  # a mistake planted on purpose: the gradient of every rank but the first is scaled


@dataclass(frozen=True)
class Outcome:
    """Mean loss and gradient norm of each step, and the weights after the last."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]


Problem = Callable[[Launch], Outcome]  # picklable: a partial of a module's function


def texts_of(step: int, query: int) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Token lists of one row: ragged everywhere, with texts shared by rows of different ranks."""

    def text(*values: int) -> list[int]:
        return [*(3 + (v * 7 + step) % 200 for v in values), 0]

    own = text(*range(query, query + 1 + query % 4))
    positives = [text(*range(query * 3, query * 3 + 2 + 5 * (query % 3)))]
    if query % 3 == 1:
        positives.append(text(query, query + 50))
    if query in (2, 6):  # a positive that two ranks share
        positives = [text(90, 91, 92)]
    negatives = [text(100 + query, 100 + n, 101) for n in range(query % 4)]
    if query == 5:  # a positive of another rank as hard negative, and a long text
        negatives += [text(90, 91, 92), text(*range(30))]
    return own, positives, negatives


def batch_of(step: int, first: int, last: int) -> EmbeddingBatch:
    texts: list[list[int]] = []
    columns: list[list[int]] = [[], [], []]
    owners: list[list[int]] = [[], []]
    for query in range(first, last):
        own, positives, negatives = texts_of(step, query)
        for column, group in zip(columns, ([own], positives, negatives), strict=True):
            for text in group:
                if text not in texts:
                    texts.append(text)
                column.append(texts.index(text))
        owners[0] += [query - first] * len(positives)
        owners[1] += [query - first] * len(negatives)
    index = lambda values: torch.tensor(values, dtype=torch.long)  # noqa: E731
    return EmbeddingBatch(
        texts=PackedTokens.from_lists(texts),
        query_idx=index(columns[0]),
        positive_idx=index(columns[1]),
        positive_query_idx=index(owners[0]),
        negative_idx=index(columns[2]),
        negative_query_idx=index(owners[1]),
        text_hash=index([hash(tuple(text)) >> 1 for text in texts]),
    )


def float64_norms() -> None:
    """transformers computes RMSNorm in float32 whatever the weights are: too coarse for an equality of 1e-10."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: torch.nn.Module, states: Tensor) -> Tensor:
        return self.weight * states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.variance_epsilon)

    Qwen3RMSNorm.forward = forward


def three_steps(model: str, settings: Settings, launch: Launch) -> Outcome:
    torch.manual_seed(0)
    lora = LoraConfig(rank=settings.lora, dropout=settings.dropout)
    encoder = load_encoder(ModelConfig(path=model, lora=lora))
    if settings.double:
        encoder = encoder.double()
    engine = build_engine(
        launch, encoder, OptimizerConfig(lr=1e-3), Precision.fp32, max_grad_norm=1.0,
        sync_every_chunk=settings.sync_every_chunk,
    )  # fmt: skip
    objective = EmbeddingObjective(
        engine, InfoNCE(temperature=0.5, gather_hard_negatives=True, tile_elements=40), settings.dims,
        settings.tokens_per_chunk, settings.retained_graph_tokens,
    )  # fmt: skip
    if settings.wrong_factor != 1.0 and rank() > 0:
        plain = engine.backward
        engine.backward = lambda scalar, *, last=False: plain(scalar * settings.wrong_factor, last=last)  # type: ignore[method-assign]
    share = NUM_QUERIES // world_size()
    losses, norms = [], []
    for step in range(3):
        seed_step(engine, 0, step)
        metrics = objective.forward_backward(batch_of(step, rank() * share, (rank() + 1) * share))
        assert engine.finish_backward(1.0)
        norms.append(engine.update(1e-3))
        losses.append(float(metrics["loss"]))
    return Outcome(losses, norms, engine.gather_parameters())


def on_this_rank(cases: list[tuple[dict[str, str], Problem]]) -> list[Outcome]:
    """Runs on every rank of ``run_on_ranks``; each case's environment is what ``accelerate launch`` would set."""
    float64_norms()
    before = dict(os.environ)
    outcomes = []
    for environment, problem in cases:
        os.environ.clear()
        os.environ.update(before | environment)
        outcomes.append(problem(start("cpu")))
    return outcomes


def alone(model: Path, settings: Settings) -> Outcome:
    """The reference: one process, one chunk unless asked otherwise."""
    return three_steps(str(model), replace(settings, wrong_factor=1.0), start("cpu"))
