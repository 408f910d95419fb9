"""Time, cost and disk from a simple model: counted FLOP at a given share of the peak, bytes at the links' speed.

A token's forward pass costs F = 2 FLOP for each parameter of the layers' linear maps, and 2 FLOP for each token that
it attends to and each component of the queries and of their result (causal: half the text on average). The backward
pass costs 2F in full training and F with LoRA (no weight gradients of the frozen maps). A token whose graph is not kept
is encoded again: F; with activation checkpointing once more: F. So full training costs 6N to 8N per token.

Time is the sum of products, gradients' exchange, the gather of vectors and the update, without overlap.
"""

from dataclasses import dataclass

from qwen3emb_train.planning.activations import Arithmetic
from qwen3emb_train.planning.gpus import Gpu
from qwen3emb_train.planning.memory import Parallelism, Sharding, StepLoad
from qwen3emb_train.planning.parameters import Parameters, sharded_elements


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part.

    Attributes:
        products: matrix products of the encoder.
        exchange: of gradients, and of weights where they are sharded.
        gather: of all ranks' vectors, and of their gradient.
        update: memory traffic of AdamW.
        flop_per_token: counted, recomputation included.
        model_flop_per_token: without it (6N): what MFU refers to.
    """

    products: float
    exchange: float
    gather: float
    update: float
    flop_per_token: float
    model_flop_per_token: float

    @property
    def total(self) -> float:
        return self.products + self.exchange + self.gather + self.update


def forward_flop(model: Parameters, mean_tokens: float) -> float:
    """FLOP of one token, in a text of ``mean_tokens``."""
    return 2.0 * (model.products + model.adapters) + 2.0 * mean_tokens * model.query_width * model.layers


def step_time(
    model: Parameters,
    load: StepLoad,
    sharding: Sharding,
    arithmetic: Arithmetic,
    gpu: Gpu,
    *,
    engine: Parallelism,
    ranks: int,
    gpus_per_node: int,
    mean_tokens: float,
    utilization: float,
    sync_every_chunk: bool = False,
) -> StepTime:
    """The time of one step on ``ranks`` GPUs.

    Args:
        model: its shapes.
        load: of one rank.
        sharding: what a rank stores.
        arithmetic: dtypes and recomputation.
        gpu: the hardware.
        engine: how state is distributed.
        ranks: number of ranks.
        gpus_per_node: GPUs with fast links.
        mean_tokens: of a text.
        utilization: share of the peak that the counted FLOP reach.
        sync_every_chunk: whether gradients are reduced in every backward pass.
    """
    forward = forward_flop(model, mean_tokens)
    replayed = 1 - load.tokens_kept / load.tokens
    plain = 3.0 if model.lora_rank == 0 else 2.0
    times = plain + replayed + (1.0 if arithmetic.activation_checkpointing else 0.0)
    peak = gpu.bf16_flops if arithmetic.bf16 else gpu.fp32_flops
    traffic = predict_traffic(model, load, arithmetic, engine, ranks, gpus_per_node, sync_every_chunk)
    link = gpu.link if ranks <= gpus_per_node else gpu.network
    group = sharded_over(engine, ranks, gpus_per_node)
    group_link = gpu.link if group <= gpus_per_node else gpu.network
    return StepTime(
        products=load.tokens * forward * times / (peak * utilization),
        # A ring sends all but its own part: once to gather or scatter, twice to sum.
        exchange=(traffic.weights_gathered + traffic.gradients_scattered) / group_link
        + 2 * traffic.gradients_summed / link,
        gather=(traffic.vectors_gathered + 2 * traffic.vectors_summed) / link,
        update=3.5 * sharding.moments / gpu.memory_bandwidth,  # 28 bytes per updated number
        flop_per_token=forward * times,
        model_flop_per_token=forward * plain,
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes of the whole tensors in a step's collectives, as one rank sees them.

    Attributes:
        vectors_gathered: all ranks' vectors; vectors_summed: their gradient.
        weights_gathered: for every pass over a chunk, where weights are sharded.
        gradients_scattered, gradients_summed: float32, once a step.
    """

    vectors_gathered: float = 0.0
    vectors_summed: float = 0.0
    weights_gathered: float = 0.0
    gradients_scattered: float = 0.0
    gradients_summed: float = 0.0


def predict_traffic(
    model: Parameters,
    load: StepLoad,
    arithmetic: Arithmetic,
    engine: Parallelism,
    ranks: int,
    gpus_per_node: int,
    sync_every_chunk: bool = False,
) -> Traffic:
    """What the ranks exchange in a step; text hashes, counts and flags are left out (a few bytes per text).

    Args:
        model, load, arithmetic, engine, ranks, gpus_per_node, sync_every_chunk: as in ``step_time``.
    """
    if ranks == 1:
        return Traffic()
    vectors = 4.0 * model.hidden * load.columns
    if engine is Parallelism.ddp:
        return Traffic(vectors, vectors, gradients_summed=4.0 * model.trained)
    if engine in (Parallelism.zero1, Parallelism.zero2):  # the updated parts are gathered after the update
        return Traffic(vectors, vectors, 4.0 * model.trained, gradients_summed=4.0 * model.trained)
    group = sharded_over(engine, ranks, gpus_per_node)
    own, root = sharded_elements(model.shapes, group), sharded_elements(model.root_shapes, group)
    own_trained = sharded_elements(model.trained_shapes, group)
    replayed = len(load.replayed)
    # A layer is gathered for each pass: three over a replayed chunk, two over a kept one. The root's parameters stay
    # until the next backward pass.
    passes = 3 * replayed + 2 * load.num_kept
    gathers = (own - root) * passes + root * (replayed + (1 if load.num_kept else 0))
    width = arithmetic.width if engine is not Parallelism.zero3 else 4
    reductions = load.num_passes if sync_every_chunk else 1
    return Traffic(
        vectors,
        vectors,
        weights_gathered=float(width * group * gathers),
        gradients_scattered=4.0 * group * own_trained * reductions,
        gradients_summed=4.0 * own_trained * reductions if group < ranks else 0.0,
    )


def sharded_over(engine: Parallelism, ranks: int, gpus_per_node: int) -> int:
    """Ranks that share one copy of the weights; 1 where each has all of them.

    Args:
        engine: how state is distributed.
        ranks: number of ranks.
        gpus_per_node: GPUs with fast links.
    """
    if engine is Parallelism.hsdp:
        return min(ranks, gpus_per_node)
    return ranks if engine in (Parallelism.fsdp2, Parallelism.zero3) else 1


@dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Attributes:
        checkpoint: of one: float32 model, AdamW's moments, adapters.
        checkpoints: of all that are kept, and one being written.
        token_store: ids of all rows, where their number is known.
    """

    checkpoint: int
    checkpoints: int
    token_store: int | None

    @property
    def total(self) -> int:
        return self.checkpoints + (self.token_store or 0)


def predict_disk(
    model: Parameters,
    *,
    steps: int,
    save_every: int | None,
    keep_last: int | None,
    keeps_best: bool = False,
    tokens_per_row: float,
    texts_per_row: float,
    rows: int | None,
) -> Disk:
    """Bytes on disk. The final model is a hard link to the last checkpoint's and takes no space.

    Args:
        model: its shapes.
        steps: optimizer steps.
        save_every, keep_last: of checkpoints; None: only at the end; all.
        keeps_best: validation keeps the best checkpoint beyond ``keep_last``.
        tokens_per_row, texts_per_row: means.
        rows: of all sources; None = unknown.
    """
    checkpoint = 4 * model.total + 8 * model.trained
    if model.lora_rank:
        checkpoint = 4 * (model.total - model.adapters) + 12 * model.trained
    saved = 1 if save_every is None else -(-steps // save_every)
    kept = saved if keep_last is None else min(saved, keep_last + (1 if keeps_best else 0))
    writing = 1 if kept < saved else 0  # the oldest is deleted only when the newest is whole
    store = None if rows is None else int(rows * (4 * tokens_per_row + 16 * texts_per_row + 12))
    return Disk(checkpoint, checkpoint * (kept + writing), store)
