"""One rank's part of an average step, and the memory it takes under an engine."""

import math

from qwen3emb_train.planning.activations import Arithmetic, ChunkShape
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.memory import (
    Memory,
    Sharding,
    StepLoad,
    arithmetic_of,
    count_kept,
    predict_memory,
    shard,
)
from qwen3emb_train.planning.parameters import Parameters
from qwen3emb_train.planning.work import RowShape

# Cells of the attention's grid per token: the texts of a chunk are sorted by length, so they differ little.
_CELLS_PER_TOKEN = 1.1


def step_load(config: PlanConfig, model: Parameters, row: RowShape, ranks: int) -> StepLoad:
    """A rank's part of an average step.

    Args:
        config: batch size, chunks, loss.
        model: its shapes.
        row: the average row.
        ranks: number of ranks.
    """
    queries = math.ceil(config.batch_size / ranks)
    tokens = max(1, math.ceil(queries * row.tokens))
    chunk_tokens = []
    budget = max(config.tokens_per_chunk, math.ceil(max(row.query_tokens, row.document_tokens)))
    while tokens > 0:
        chunk_tokens.append(min(tokens, budget))
        tokens -= chunk_tokens[-1]
    rows = math.ceil(queries * row.texts)
    return StepLoad(
        chunks=tuple(ChunkShape(size, math.ceil(size * _CELLS_PER_TOKEN)) for size in chunk_tokens),
        num_kept=count_kept(chunk_tokens, config.retained_graph_tokens),
        texts=rows,
        rows=rows,
        columns=_num_sent(config, row, queries) * ranks if ranks > 1 else 0,
        scores=math.ceil(queries * row.positives) * math.ceil(config.batch_size * (1 + 2 * row.positives)),
        tile_elements=getattr(config.loss, "tile_elements", 2**24),
        prefixes=sum(config.matryoshka_dims) / model.hidden if config.matryoshka_dims else 1.0,
    )


def _num_sent(config: PlanConfig, row: RowShape, queries: int) -> int:
    """Vectors that a rank sends to all others."""
    if not config.loss.needs_gathered:
        return 0
    negatives = row.negatives if config.loss.needs_gathered_negatives else 0.0
    return math.ceil(queries * (1 + row.positives + negatives))


def rank_memory(
    config: PlanConfig, model: Parameters, load: StepLoad, bf16: bool, ranks: int
) -> tuple[Sharding, Arithmetic, Memory]:
    """What a rank stores, its dtypes, and the memory of a step.

    Args:
        config: engine and machine.
        model: its shapes.
        load: of one rank.
        bf16: whether products run in bf16.
        ranks: number of ranks.
    """
    sharding = shard(
        model,
        config.engine,
        ranks,
        config.gpus_per_node,
        bf16,
        num_passes=load.num_passes,
        sync_every_chunk=config.sync_every_chunk,
    )
    arithmetic = arithmetic_of(config.engine, ranks, bf16, config.model.activation_checkpointing)
    return sharding, arithmetic, predict_memory(model, load, sharding, arithmetic, GPUS[config.gpu].overhead)
