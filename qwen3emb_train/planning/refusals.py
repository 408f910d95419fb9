"""Settings that cannot work, or are probably unintended; each with a remedy."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.gpus import GIB, GPUS
from qwen3emb_train.planning.load import rank_memory, step_load
from qwen3emb_train.planning.memory import Memory, Parallelism
from qwen3emb_train.planning.parameters import Parameters
from qwen3emb_train.planning.work import RowShape

_MANY_EPOCHS = 10
_CHUNK_GRAIN = 256


def refuse_split(config: PlanConfig, ranks: int) -> list[str]:
    """Batches and nodes that the number of ranks does not divide."""
    refusals = []
    own = {f"data.{name}.batch_size": source.batch_size for name, source in config.data.items()}
    for name, size in {"batch_size": config.batch_size, **own}.items():
        if size is not None and size % ranks:
            near = max(size // ranks, 1) * ranks
            refusals.append(
                f"{name}={size} is not divisible by {ranks} ranks: use {near} or {near + ranks}, or another num_gpus."
            )
    if config.engine is Parallelism.hsdp and ranks > config.gpus_per_node and ranks % config.gpus_per_node:
        refusals.append(f"engine=hsdp needs whole nodes: {ranks} is not a multiple of {config.gpus_per_node}.")
    return refusals


def impossible(config: PlanConfig, model: Parameters, row: RowShape, steps: int) -> list[str]:
    """What cannot work on any machine.

    Args:
        config: the settings.
        model: its shapes.
        row: the average row.
        steps: optimizer steps; 0 = unknown.
    """
    refusals = []
    if steps == 0:
        refusals.append("the number of steps is unknown: give steps, or mixture.epochs and data that is there.")
    largest = max(config.matryoshka_dims, default=0)
    if largest > model.hidden:
        fitting = [dim for dim in config.matryoshka_dims if dim <= model.hidden]
        refusals.append(
            f"matryoshka_dims holds {largest}, but the model has {model.hidden} components: use "
            f"{[model.hidden, *(dim for dim in fitting if dim < model.hidden)]}."
        )
    for name in ("max_query_tokens", "max_document_tokens"):
        value = getattr(config.lengths, name)
        if value > model.max_positions:
            refusals.append(
                f"lengths.{name}={value} is beyond the model's {model.max_positions} positions: lower it to that."
            )
    if row.rows is not None and row.rows < config.batch_size:
        refusals.append(
            f"batch_size={config.batch_size} exceeds the {row.rows} rows of the data: lower it to {row.rows} or less."
        )
    return refusals


def doubtful(config: PlanConfig, row: RowShape, steps: int) -> list[str]:
    """What works but is probably unintended.

    Args:
        config: the settings.
        row: the average row.
        steps: optimizer steps.
    """
    warnings = []
    seen = steps * config.batch_size
    if row.rows is not None and seen > _MANY_EPOCHS * row.rows:
        warnings.append(
            f"steps={steps} x batch_size={config.batch_size} shows each of about {row.rows:,} rows "
            f"{seen / row.rows:.0f} times: {math.ceil(row.rows / config.batch_size)} steps are one epoch."
        )
    longest = max(config.lengths.max_query_tokens, config.lengths.max_document_tokens)
    if config.tokens_per_chunk < longest:
        warnings.append(
            f"tokens_per_chunk={config.tokens_per_chunk} is less than the longest text, {longest}: such a text is a "
            "chunk of its own and needs the memory of its length."
        )
    return warnings


def remedy_for_memory(
    config: PlanConfig, model: Parameters, row: RowShape, bf16: bool, ranks: int, memory: Memory
) -> str:
    """The smallest change that fits: a smaller chunk, then an engine that shards, then adapters or more GPUs.

    Args:
        config: the settings.
        model: its shapes.
        row: the average row.
        bf16: whether products run in bf16.
        ranks: number of ranks.
        memory: what the settings need.
    """
    available = GPUS[config.gpu].memory

    def with_chunk(tokens: int, engine: Parallelism) -> PlanConfig:
        kept = min(config.retained_graph_tokens, tokens)
        return replace(config, tokens_per_chunk=tokens, retained_graph_tokens=kept, engine=engine)

    def fits(tokens: int, engine: Parallelism) -> bool:
        changed = with_chunk(tokens, engine)
        return rank_memory(changed, model, step_load(changed, model, row, ranks), bf16, ranks)[2].total <= available

    need = f"needs {memory.total / GIB:.1f} GiB a GPU, {config.gpu} has {available / GIB:.1f}: "
    longest = max(config.lengths.max_query_tokens, config.lengths.max_document_tokens)
    smallest = math.ceil(longest / _CHUNK_GRAIN) * _CHUNK_GRAIN
    others = (Parallelism.zero1, Parallelism.hsdp, Parallelism.fsdp2) if ranks > 1 else ()
    for engine in dict.fromkeys((config.engine, *others)):
        best = _largest(smallest, config.tokens_per_chunk, partial(_swapped, fits, engine))
        if best is not None:
            words = [] if engine is config.engine else [f"engine={engine.value}"]
            words += [f"tokens_per_chunk={best}"] if best < config.tokens_per_chunk else []
            words += [f"retained_graph_tokens={best}"] if best < config.retained_graph_tokens else []
            return f"{need}use {' '.join(words)}."
    if model.lora_rank == 0:
        return need + "no chunk and no engine fits: train adapters (model.lora.rank=32), or take more or larger GPUs."
    return need + "no chunk and no engine fits: take more or larger GPUs, or a smaller model."


def _swapped(fits: Callable[[int, Parallelism], bool], engine: Parallelism, tokens: int) -> bool:
    return fits(tokens, engine)


def _largest(smallest: int, largest: int, fits: Callable[[int], bool]) -> int | None:
    """The largest multiple of the grain within the limits that fits, or ``largest`` itself; None if none does."""
    if fits(largest):
        return largest
    low, high = smallest // _CHUNK_GRAIN, largest // _CHUNK_GRAIN
    if low > high or not fits(low * _CHUNK_GRAIN):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * _CHUNK_GRAIN) else (low, middle - 1)
    return low * _CHUNK_GRAIN
