"""One rank's part of an average step, and what it takes under an engine: memory and time."""

import math
from dataclasses import dataclass, replace

from qwen3emb_train.models.loading import Attention, ModelConfig
from qwen3emb_train.models.precision import round_frozen_products
from qwen3emb_train.planning.chunk_cost import ModelTrace
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.cost import StepTime, step_time
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.memory import Memory, StepLoad, casts_weights, count_kept, predict_memory, shard
from qwen3emb_train.planning.parameters import Parameters, build_meta_model, count_parameters, load_model_shape
from qwen3emb_train.planning.tracing import How
from qwen3emb_train.planning.work import RowShape


@dataclass(frozen=True)
class RankPlan:
    """One rank's step.

    Attributes:
        load: its work.
        memory: at the fullest moment.
        time: by part.
    """

    load: StepLoad
    memory: Memory
    time: StepTime


class TracedModels:
    """Models on the meta device with their traces, each made once: remedies ask for several.

    Args:
        bf16: whether products run in bf16.
        gpu: name of the machine.
        mean_tokens: of a text.
        casts: the weights, in what is asked for first.
    """

    def __init__(self, bf16: bool, gpu: str, mean_tokens: float, *, casts: bool = False) -> None:
        self._how = How(bf16, casts=casts, on_gpu=gpu != "cpu", mean_tokens=max(1, round(mean_tokens)))
        self._found: dict[str, TracedModel] = {}

    def of(self, config: ModelConfig) -> "TracedModel":
        """The configured model."""
        key = repr(config)
        if key not in self._found:
            self._found[key] = TracedModel(config, self._how)
        return self._found[key]


class TracedModel:
    """A configured model: its parameters, and what its passes do.

    Args:
        config: which model.
        how: it is run; weights by autocast and cast.

    Raises:
        ValueError: its code cannot be traced, neither packed nor padded.
    """

    def __init__(self, config: ModelConfig, how: How) -> None:
        self._how = how
        self._traces: dict[bool, ModelTrace] = {}
        try:
            self._build(config)
        except ValueError:
            # Training does not pack such a model either: it reads padded texts.
            if config.attention is Attention.padded:
                raise
            padded = replace(config, attention=Attention.padded)
            self._build(padded)
        self.parameters: Parameters = count_parameters(self.model, config.quantization)

    def _build(self, config: ModelConfig) -> None:
        self._traces.clear()
        self.model = build_meta_model(config, load_model_shape(config))
        if self._how.bf16:
            round_frozen_products(self.model.backbone)  # as ``build_engine`` does
        self.trace(casts=self._how.casts)

    def trace(self, casts: bool) -> ModelTrace:
        """With the weights cast (FSDP2), or under autocast."""
        if casts not in self._traces:
            self._traces[casts] = ModelTrace(self.model, replace(self._how, casts=casts))
        return self._traces[casts]


def plan_rank(config: PlanConfig, models: TracedModels, row: RowShape, ranks: int) -> RankPlan:
    """A rank's average step, its memory and its time.

    Args:
        config: batch, engine and machine.
        models: traces.
        row: the average row.
        ranks: number of ranks.
    """
    traced, gpu = models.of(config.model), GPUS[config.gpu]
    model = traced.parameters
    load = step_load(config, model, row, ranks)
    casts = casts_weights(config.engine, ranks)
    trace = traced.trace(casts)
    costs = {tokens: trace.chunk(tokens, gpu) for tokens in dict.fromkeys(load.chunks)}
    casts = casts and trace.how.bf16
    sharding = shard(
        model,
        config.engine,
        ranks,
        config.gpus_per_node,
        trace.how.bf16,
        num_passes=load.num_passes,
        sync_every_chunk=config.sync_every_chunk,
    )
    time = step_time(
        model,
        load,
        sharding,
        costs,
        gpu,
        engine=config.engine,
        ranks=ranks,
        gpus_per_node=config.gpus_per_node,
        casts=casts,
        sync_every_chunk=config.sync_every_chunk,
    )
    return RankPlan(load, predict_memory(model, load, sharding, costs, gpu.overhead), time)


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
    chunks = []
    budget = max(config.tokens_per_chunk, math.ceil(max(row.query_tokens, row.document_tokens)))
    while tokens > 0:
        chunks.append(min(tokens, budget))
        tokens -= chunks[-1]
    rows = math.ceil(queries * row.texts)
    return StepLoad(
        chunks=tuple(chunks),
        num_kept=count_kept(chunks, config.retained_graph_tokens),
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
