"""One step of the real objective under the real engine on fake ranks.

One process acts as one of up to 512 ranks: the check is which collectives a step makes and how large they are, not
their results. The encoder is a tiny random one; the number of collectives follows from its layers and chunks, and
their bytes are compared with the plan's formulas for it. The configured model's own shapes are checked in ``shapes``.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.models.packing import PACKED, register_packed_attention
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import Encoder, TextModel
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.cost import predict_traffic, sharded_over
from qwen3emb_train.planning.fake_ranks import fake_ranks
from qwen3emb_train.planning.memory import Parallelism, StepLoad, count_kept
from qwen3emb_train.planning.parameters import Parameters, count_parameters, sharded_elements
from qwen3emb_train.planning.plan import Plan
from qwen3emb_train.planning.shapes import sharded_bytes
from qwen3emb_train.training.engines.engine import Engine as TrainingEngine
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer

_GATHERS = ("allgather_", "_allgather_base_")
_SUMS = ("allreduce_",)
_SCATTERS = ("reduce_scatter_", "_reduce_scatter_base_")
_OTHER_TEXTS = 1_000_000  # offset between the text hashes of two ranks
_LARGE = 1024  # bytes: vectors, gradients and weights; below are counts, flags and text hashes


@dataclass
class Collectives:
    """The collectives of one rank in a step: number and bytes by kind. Bytes are of the whole tensor.

    Attributes:
        calls, bytes: by "gather", "sum", "scatter" for large floating-point tensors; "small" for the rest.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def add(self, operation: str, tensors: list[Tensor]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        names = {"gather": _GATHERS, "sum": _SUMS, "scatter": _SCATTERS}
        kind = next((kind for kind, known in names.items() if operation in known), operation)
        if size < _LARGE or not tensors[0].is_floating_point():
            kind = "small"
        self.calls[kind] += 1
        self.bytes[kind] += size


class _Count(TorchDispatchMode):
    """Counts every c10d operation, including those of FSDP2 and autograd functions."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Collectives()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            # The first argument is the result (or what is summed in place); a scatter's second is the whole tensor.
            operation = function._schema.name.split("::")[1]
            self.found.add(operation, _tensors(args[1] if operation in _SCATTERS else args[0]))
        return function(*args, **(kwargs or {}))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)]


def count_collectives(
    config: PlanConfig, num_ranks: int, *, queries: int = 2, num_chunks: int = 3, tokens: int = 6
) -> tuple[Collectives, Parameters, StepLoad]:
    """One step of the configured loss with a tiny encoder: its collectives, and the inputs of the plan's formulas.

    Args:
        config: loss and engine.
        num_ranks: fake ranks.
        queries: of this rank.
        num_chunks: at least; each of whole texts.
        tokens: of each text.
    """
    torch.manual_seed(0)
    batch = _batch(queries, tokens)
    tokens_per_chunk = -(-batch.texts.num_tokens // num_chunks)
    encoder = _tiny_encoder()
    parameters = count_parameters(encoder)
    num_texts = batch.texts.num_texts
    with fake_ranks(num_ranks):
        engine = _engine(config, encoder, num_ranks)
        objective = EmbeddingObjective(
            engine=engine,
            loss=_OnFakeRanks(config.loss, num_ranks),
            matryoshka_dims=[],
            tokens_per_chunk=tokens_per_chunk,
            retained_graph_tokens=0,
        )
        with _Count() as count:
            objective.forward_backward(batch)
    chunks = [tokens * (tokens_per_chunk // tokens)] * (num_texts // (tokens_per_chunk // tokens))
    load = StepLoad(
        tuple(chunks),
        count_kept(chunks, 0),
        num_texts,
        num_texts,
        num_ranks * queries * (3 if config.loss.needs_gathered_negatives else 2),
        queries * 3 * queries * num_ranks,
        2**24,
    )
    return count.found, parameters, load


def dry_run(config: PlanConfig, plan: Plan, model: TextModel) -> list[str]:
    """Lines for the report: what the dry run found, and whether the plan's formulas agree.

    Args:
        config: the settings.
        plan: to check.
        model: on the meta device.
    """
    lines = ["dry run (one step of the real objective on fake ranks with a tiny encoder, queries of equal length)"]
    for column in plan.columns:
        if column.num_gpus > 1:
            lines.append(_objective_line(config, column.num_gpus))
    if config.engine in (Parallelism.fsdp2, Parallelism.hsdp):
        for column in plan.columns:
            if column.num_gpus > 1:
                lines.append(_shard_line(config, plan.model, model, column.num_gpus))
    return lines


def predicted_bytes(config: PlanConfig, parameters: Parameters, load: StepLoad, num_ranks: int) -> dict[str, float]:
    """The plan's formulas for a dry step, by kind of collective.

    Args:
        config: the engine.
        parameters: of the tiny encoder.
        load: of one rank.
        num_ranks: number of ranks.
    """
    engine = config.engine if config.engine in (Parallelism.fsdp2, Parallelism.hsdp) else Parallelism.ddp
    traffic = predict_traffic(parameters, load, engine, num_ranks, config.gpus_per_node, casts=False)
    return {
        "gather": traffic.vectors_gathered + traffic.weights_gathered,
        "sum": traffic.gradients_summed,
        "scatter": traffic.vectors_scattered + traffic.gradients_scattered,
    }


def _objective_line(config: PlanConfig, num_ranks: int) -> str:
    found, parameters, load = count_collectives(config, num_ranks)
    predicted = predicted_bytes(config, parameters, load, num_ranks)
    parts = []
    for kind in ("gather", "scatter", "sum"):
        if found.calls[kind] or predicted[kind]:
            verdict = _verdict(found.bytes[kind], predicted[kind], 0.01)
            parts.append(f"{found.calls[kind]} {kind} of {found.bytes[kind] / 2**20:.3f} MiB ({verdict})")
    return f"  {num_ranks} ranks: {', '.join(parts)}, {found.calls['small']} small"


def _shard_line(config: PlanConfig, parameters: Parameters, model: TextModel, num_ranks: int) -> str:
    group = sharded_over(config.engine, num_ranks, config.gpus_per_node)
    own = sharded_bytes(model, num_ranks, num_ranks // group)
    predicted = parameters.bytes_per_weight * sharded_elements(parameters.shapes, group)
    return (
        f"  FSDP2 over {num_ranks} ranks ({num_ranks // group} replicas): rank 0 holds {own / 2**20:,.1f} MiB of "
        f"weights, formula {predicted / 2**20:,.1f} MiB: {_verdict(own, predicted, 0.001)}"
    )


def _verdict(found: float | int, predicted: float | int, tolerance: float) -> str:
    return (
        "agree"
        if abs(found - predicted) <= tolerance * max(found, predicted)
        else f"DIFFER by {found / max(predicted, 1):.2f}x"
    )


@dataclass
class _OnFakeRanks(EmbeddingLoss):
    """A loss whose gathered texts get the indices and hashes of real ranks: fake ranks all send this rank's."""

    inner: EmbeddingLoss
    num_ranks: int

    @property
    def needs_gathered(self) -> bool:
        return self.inner.needs_gathered

    @property
    def needs_gathered_negatives(self) -> bool:
        return self.inner.needs_gathered_negatives

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        if gathered is not None:
            gathered = replace(
                gathered,
                positive_query_idx=self._numbered(gathered.positive_query_idx, len(local.queries)),
                negative_query_idx=self._numbered(gathered.negative_query_idx, len(local.queries)),
                query_hash=self._numbered(gathered.query_hash, _OTHER_TEXTS),
                positive_hash=self._numbered(gathered.positive_hash, _OTHER_TEXTS),
                negative_hash=self._numbered(gathered.negative_hash, _OTHER_TEXTS),
            )
        return self.inner(local, gathered, first_query)

    def _numbered(self, values: Tensor, step: int) -> Tensor:
        """Adds ``step`` times the rank that a value comes from."""
        return values + torch.arange(self.num_ranks).repeat_interleave(len(values) // self.num_ranks) * step


def _engine(config: PlanConfig, encoder: Encoder, num_ranks: int) -> TrainingEngine:
    """The engine that training would use; DDP in place of DeepSpeed, whose collectives are not modelled."""
    cpu = torch.device("cpu")
    if config.engine in (Parallelism.fsdp2, Parallelism.hsdp):
        from qwen3emb_train.training.engines.fsdp2 import FSDP2Engine

        replicas = num_ranks // sharded_over(config.engine, num_ranks, config.gpus_per_node)
        return FSDP2Engine(encoder, OptimizerConfig(), Precision.fp32, cpu, replicas)
    from qwen3emb_train.training.engines.ddp import DDPEngine

    engine = DDPEngine(encoder, build_optimizer(encoder, OptimizerConfig()), Precision.fp32, cpu)
    engine._wrapped.register_comm_hook(None, _sum_bucket)
    return engine


def _sum_bucket(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """DDP's own reduction, from Python: the fake group's C++ one returns no result."""
    dist.all_reduce(bucket.buffer())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def _tiny_encoder() -> Encoder:
    from transformers import AutoModel, Qwen3Config

    register_packed_attention()
    shape = Qwen3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    backbone = AutoModel.from_config(shape, attn_implementation=PACKED, dtype=torch.float32, trust_remote_code=False)
    backbone.config.use_cache = False
    return Encoder(backbone).train()


def _batch(queries: int, tokens: int) -> EmbeddingBatch:
    """Each query with one positive and one hard negative, all different."""
    ids = [[(text * 7 + place) % 64 for place in range(tokens)] for text in range(3 * queries)]
    rows = torch.arange(3 * queries)
    query_idx = torch.arange(queries)
    return EmbeddingBatch(
        PackedTokens.from_lists(ids),
        rows[:queries],
        rows[queries : 2 * queries],
        query_idx,
        rows[2 * queries :],
        query_idx,
        rows,
    )
