"""Memory of one rank by part, in the phase of the step when it is largest.

A step has five phases (``training.gradient_cache``): encoding, the loss, the backward pass through kept graphs, the
replay of the other chunks, the update. Weights and AdamW's moments are always there; gradients are deleted after the
update, so they are absent until the first chunk's backward pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from qwen3emb_train.planning.chunk_cost import ChunkCost
from qwen3emb_train.planning.parameters import Parameters, sharded_elements
from qwen3emb_train.training.engines.deepspeed import REDUCE_BUCKET_ELEMENTS

_LAYERS_GATHERED = 2  # the one that computes and the one fetched ahead
# float32 tensors of a tile's size that are in memory at once, masks included (measured: 2.8 to 3.0).
_TILE_COPIES = 3
_FRAGMENTATION = 0.05


class Parallelism(str, Enum):
    """How weights, gradients and moments are distributed. hsdp: sharded within a node, replicated across nodes."""

    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"
    hsdp = "hsdp"


@dataclass(frozen=True)
class Sharding:
    """Bytes of one rank that do not depend on the batch.

    Attributes:
        weights: masters in float32; frozen ones as they are kept.
        gradients: float32, of the trained parameters: all of them until they are exchanged.
        moments: AdamW's two.
        exchange: buckets, or layers that are gathered while they compute.
    """

    weights: int
    gradients: int
    moments: int
    exchange: int


@dataclass(frozen=True)
class StepLoad:
    """The work of one rank in a step.

    Attributes:
        chunks: tokens of each, in the order in which they are encoded.
        num_kept: how many of the last ones keep their graphs.
        texts: distinct texts.
        rows: queries, positives and hard negatives.
        columns: vectors gathered from all ranks; 0 with one rank.
        scores: of this rank's pairs with all gathered texts, over all terms of the loss.
        tile_elements: scores computed at once.
        prefixes: sum of the Matryoshka dims over the hidden size; 1 without.
    """

    chunks: tuple[int, ...]
    num_kept: int
    texts: int
    rows: int
    columns: int
    scores: int
    tile_elements: int
    prefixes: float = 1.0

    @property
    def tokens(self) -> int:
        return sum(self.chunks)

    @property
    def tokens_kept(self) -> int:
        return sum(self.kept)

    @property
    def kept(self) -> tuple[int, ...]:
        return self.chunks[len(self.chunks) - self.num_kept :]

    @property
    def num_passes(self) -> int:
        """Backward passes: one through all kept graphs, one for each replayed chunk."""
        return len(self.replayed) + (1 if self.num_kept else 0)

    @property
    def replayed(self) -> tuple[int, ...]:
        return self.chunks[: len(self.chunks) - self.num_kept]


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        moment: the phase when it is largest: encode, loss, backward, replay or update.
        parts: by name, in that phase.
        by_moment: the total in each phase.
    """

    moment: str
    parts: dict[str, int]
    by_moment: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def count_kept(chunk_tokens: Sequence[int], retained_graph_tokens: int) -> int:
    """How many of the last chunks keep their graph, by GradientCache's rule; a single chunk always does."""
    if len(chunk_tokens) == 1:
        return 1
    used = kept = 0
    for tokens in reversed(chunk_tokens):
        used += tokens
        if used > retained_graph_tokens:
            break
        kept += 1
    return kept


def shard(
    model: Parameters,
    engine: Parallelism,
    ranks: int,
    gpus_per_node: int,
    bf16: bool,
    *,
    num_passes: int = 2,
    sync_every_chunk: bool = False,
) -> Sharding:
    """A rank's part of weights, gradients and moments, 4 bytes per number (8 for the two moments).

    The engines exchange gradients once per step: until then every rank has all of them, whatever is sharded.

    Args:
        model: its shapes.
        engine: how state is distributed.
        ranks: number of ranks.
        gpus_per_node: GPUs with fast links.
        bf16: whether products run in bf16.
        num_passes: backward passes of a step (``StepLoad.num_passes``); FSDP2 reduces layer by layer in the last.
        sync_every_chunk: whether it does so in every pass.
    """
    trained = model.trained
    if ranks == 1 or engine is Parallelism.ddp:
        # DDP's buckets are the gradients themselves (gradient_as_bucket_view).
        return Sharding(model.weight_bytes, 4 * trained, 8 * trained, 0)
    if engine in (Parallelism.fsdp2, Parallelism.hsdp):
        group = ranks if engine is Parallelism.fsdp2 else min(gpus_per_node, ranks)
        own, own_trained = sharded_elements(model.shapes, group), sharded_elements(model.trained_shapes, group)
        # The root's parameters (the embedding) stay gathered from the forward to the backward pass.
        gathered = (2 if bf16 else 4) * (_LAYERS_GATHERED * model.largest_layer + model.embedding)
        largest_reduced = 4 * max(model.largest_layer, model.embedding) if model.lora_rank == 0 else 4 * model.adapters
        unreduced = 0 if sync_every_chunk or num_passes == 1 else 4 * trained
        return Sharding(
            round(model.bytes_per_weight * own),
            4 * own_trained + unreduced,
            8 * own_trained,
            gathered + largest_reduced,
        )
    part = math.ceil(trained / ranks)  # DeepSpeed keeps its own flat float32 copy of the part that a rank updates
    bucket = 4 * REDUCE_BUCKET_ELEMENTS  # DeepSpeed allocates all of it, however small the model
    gradients = 4 * part if sync_every_chunk and engine is not Parallelism.zero1 else 4 * trained + 4 * part
    weights, gathered = model.weight_bytes, 0
    if engine is Parallelism.zero3:
        weights = math.ceil(model.weight_bytes / ranks)
        gathered = 4 * (_LAYERS_GATHERED * model.largest_layer + model.embedding)
    return Sharding(weights + 4 * part, gradients, 8 * part, gathered + bucket)


def casts_weights(engine: Parallelism, ranks: int) -> bool:
    """FSDP2 casts weights to bf16 where the other engines use autocast."""
    return ranks > 1 and engine in (Parallelism.fsdp2, Parallelism.hsdp)


def predict_memory(
    model: Parameters,
    load: StepLoad,
    sharding: Sharding,
    costs: Mapping[int, ChunkCost],
    overhead: float = 0.0,
) -> Memory:
    """Peak memory by part of a step (the second or a later one, when AdamW's moments exist).

    Args:
        model: its shapes.
        load: of one rank.
        sharding: what a rank stores.
        costs: of chunks, by their tokens.
        overhead: bytes beyond tensors; above 0 for GPUs, where the allocator's fragmentation is added too.
    """
    vectors = 4 * model.hidden * load.texts
    kept = [costs[tokens] for tokens in load.kept]
    graphs = {"bf16 copies": sum(c.copies for c in kept), "activations": sum(c.kept - c.copies for c in kept)}
    gradients = sharding.gradients
    held = 4 * model.hidden * (load.rows + load.columns)  # local and gathered vectors are kept for the diagnostics
    moments: dict[str, dict[str, int]] = {
        "encode": {
            **graphs,
            "workspace": max((costs[tokens].forward_peak for tokens in load.replayed), default=0),
            "vectors": vectors,
        },
        "loss": {**graphs, "vectors": vectors + loss_vectors(model, load), "loss tile": loss_tile(load)},
    }
    if kept:
        # Graphs are freed layer by layer while gradients grow: the sum is largest at the beginning or the end.
        whole = {**graphs, "workspace": max(c.backward_peak - c.kept for c in kept)}
        moments["backward"] = {**_larger(whole, {"gradients": gradients}), "vectors": 2 * vectors + held}
    for number, tokens in enumerate(load.replayed):
        cost = costs[tokens]
        whole = {
            "bf16 copies": cost.copies,
            "activations": cost.kept - cost.copies,
            "workspace": cost.backward_peak - cost.kept,
        }
        is_first = number == 0 and not kept
        now = _larger(whole, {"gradients": gradients}) if is_first else {**whole, "gradients": gradients}
        now["vectors"] = 2 * vectors + held
        moments["replay"] = _larger(moments.get("replay", {}), now)
    moments["update"] = {"gradients": gradients, "vectors": held}

    always = {"weights": sharding.weights, "AdamW moments": sharding.moments, "exchange": sharding.exchange}
    fixed = sum(always.values())
    totals = {name: fixed + sum(parts.values()) for name, parts in moments.items()}
    moment = max(totals, key=lambda name: totals[name])
    parts = {**always, **moments[moment]}
    if overhead:
        parts["overhead"] = int(overhead + _FRAGMENTATION * totals[moment])
    names = ("weights", "gradients", "AdamW moments", "exchange", "bf16 copies", "activations", "workspace")
    ordered = {name: parts.get(name, 0) for name in (*names, "vectors", "loss tile", "overhead")}
    return Memory(moment, ordered, totals)


def loss_vectors(model: Parameters, load: StepLoad) -> int:
    """Local and gathered vectors, each Matryoshka prefix's normalised copies of both, and their gradients."""
    return int(2 * 4 * model.hidden * (1 + load.prefixes) * (load.rows + load.columns))


def loss_tile(load: StepLoad) -> int:
    """Scores of a tile and the tensors computed from them."""
    return 4 * _TILE_COPIES * min(load.tile_elements, load.scores)


def _larger(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return dict(first) if sum(first.values()) >= sum(second.values()) else dict(second)
