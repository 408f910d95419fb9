"""Time of a step, its traffic and disk space: traced kernels at the GPU's rates, bytes at the links' speed.

A chunk whose graph is not kept is encoded again. Time is the sum of the encoder's passes, the loss, the exchange of
gradients, the gather of vectors and the update, without overlap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from qwen3emb_train.planning.chunk_cost import ChunkCost
from qwen3emb_train.planning.gpus import Gpu
from qwen3emb_train.planning.memory import Parallelism, Sharding, StepLoad
from qwen3emb_train.planning.parameters import Parameters, sharded_elements

# The loss makes a tile's scores twice and multiplies their gradient by both sides; of 2 FLOP each.
_LOSS_PRODUCTS = 4


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part.

    Attributes:
        encoder: forward and backward passes, replays and recomputation included.
        loss: products of vectors, in float32.
        exchange: of gradients, and of weights where they are sharded.
        gather: of all ranks' vectors, and of their gradient.
        update: memory traffic of AdamW.
        flop_per_token: counted, recomputation included.
        model_flop_per_token: without it: what MFU refers to.
        elementwise_share: of the encoder's time: kernels that are neither products nor attention.
    """

    encoder: float
    loss: float
    exchange: float
    gather: float
    update: float
    flop_per_token: float
    model_flop_per_token: float
    elementwise_share: float

    @property
    def total(self) -> float:
        return self.encoder + self.loss + self.exchange + self.gather + self.update


def step_time(
    model: Parameters,
    load: StepLoad,
    sharding: Sharding,
    costs: Mapping[int, ChunkCost],
    gpu: Gpu,
    *,
    engine: Parallelism,
    ranks: int,
    gpus_per_node: int,
    casts: bool,
    sync_every_chunk: bool = False,
) -> StepTime:
    """The time of one step on ``ranks`` GPUs.

    Args:
        model: its shapes.
        load: of one rank.
        sharding: what a rank stores.
        costs: of chunks, by their tokens.
        gpu: the hardware.
        engine: how state is distributed.
        ranks: number of ranks.
        gpus_per_node: GPUs with fast links.
        casts: sharded weights are gathered in bf16.
        sync_every_chunk: whether gradients are reduced in every backward pass.
    """
    chunks = [(costs[tokens], 2 if number < len(load.replayed) else 1) for number, tokens in enumerate(load.chunks)]
    forward_flop = sum(cost.forward_flop for cost, _ in chunks)
    flop = sum(times * cost.forward_flop + cost.backward_flop for cost, times in chunks)
    traffic = predict_traffic(model, load, engine, ranks, gpus_per_node, casts, sync_every_chunk)
    link = gpu.link if ranks <= gpus_per_node else gpu.network
    group = sharded_over(engine, ranks, gpus_per_node)
    group_link = gpu.link if group <= gpus_per_node else gpu.network
    longest = max(chunks, key=lambda chunk: chunk[0].forward_s)[0]
    return StepTime(
        encoder=sum(times * cost.forward_s + cost.backward_s for cost, times in chunks),
        loss=_LOSS_PRODUCTS * 2.0 * load.scores * load.prefixes * model.hidden / gpu.product_rate,
        # A ring sends all but its own part: once to gather or scatter, twice to sum.
        exchange=(traffic.weights_gathered + traffic.gradients_scattered) / group_link
        + 2 * traffic.gradients_summed / link,
        gather=(traffic.vectors_gathered + traffic.vectors_scattered) / link,
        update=3.5 * sharding.moments / gpu.memory_bandwidth,  # 28 bytes per updated number
        flop_per_token=flop / load.tokens,
        model_flop_per_token=forward_flop * (3.0 if model.lora_rank == 0 else 2.0) / load.tokens,
        elementwise_share=longest.elementwise_share,
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes of the whole tensors in a step's collectives, as one rank sees them.

    Attributes:
        vectors_gathered: all ranks' vectors; vectors_scattered: their gradient (all ranks have equally many rows).
        weights_gathered: for every pass over a chunk, where weights are sharded.
        gradients_scattered, gradients_summed: float32, once a step.
    """

    vectors_gathered: float = 0.0
    vectors_scattered: float = 0.0
    weights_gathered: float = 0.0
    gradients_scattered: float = 0.0
    gradients_summed: float = 0.0


def predict_traffic(
    model: Parameters,
    load: StepLoad,
    engine: Parallelism,
    ranks: int,
    gpus_per_node: int,
    casts: bool,
    sync_every_chunk: bool = False,
) -> Traffic:
    """What the ranks exchange in a step; text hashes, counts and flags are left out (a few bytes per text).

    Args:
        model, load, engine, ranks, gpus_per_node, casts, sync_every_chunk: as in ``step_time``.
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
    reductions = load.num_passes if sync_every_chunk else 1
    return Traffic(
        vectors,
        vectors,
        weights_gathered=float((2 if casts else model.bytes_per_weight) * group * gathers),
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
