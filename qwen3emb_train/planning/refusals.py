"""Settings that cannot work, or are probably unintended; each with a remedy."""

import math

from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.planning.parameters import Parameters
from qwen3emb_train.planning.work import RowShape

_MANY_EPOCHS = 10


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
        if model.max_positions is not None and value > model.max_positions:
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
