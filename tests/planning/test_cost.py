"""The cost model gives the known rules of thumb: FLOP of a token, bytes of a step's collectives."""

from dataclasses import replace

import pytest

from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.planning.activations import Arithmetic, ChunkShape
from qwen3emb_train.planning.cost import StepTime, predict_disk, predict_traffic, step_time
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.memory import Parallelism, StepLoad, shard
from qwen3emb_train.planning.parameters import (
    Parameters,
    build_meta_backbone,
    count_parameters,
    load_model_shape,
)

REPLAYED = StepLoad((ChunkShape(4096, 4096),) * 4, 0, 100, 100, 0, 100, 2**24)
KEPT = replace(REPLAYED, num_kept=4)


def count(name: str, rank: int = 0) -> Parameters:
    config = ModelConfig(path=f"Qwen/{name}", lora=LoraConfig(rank=rank))
    return count_parameters(build_meta_backbone(config, load_model_shape(config)))


@pytest.fixture(scope="module")
def qwen3() -> Parameters:
    return count("Qwen3-0.6B")


def time_of(
    model: Parameters,
    load: StepLoad,
    *,
    mean_tokens: float = 0.0,
    checkpointing: bool = False,
    ranks: int = 1,
    engine: Parallelism = Parallelism.ddp,
) -> StepTime:
    return step_time(
        model,
        load,
        shard(model, engine, ranks, 8, True),
        Arithmetic(True, checkpointing),
        GPUS["h100"],
        engine=engine,
        ranks=ranks,
        gpus_per_node=8,
        mean_tokens=mean_tokens,
        utilization=0.4,
    )


def test_six_to_ten_flop_a_token_and_parameter(qwen3: Parameters) -> None:
    """Plain 6N, gradient caching 8N, with activation checkpointing 10N; half kept graphs 7N."""
    per_parameter = {
        6: time_of(qwen3, KEPT),
        8: time_of(qwen3, REPLAYED),
        10: time_of(qwen3, REPLAYED, checkpointing=True),
        7: time_of(qwen3, replace(REPLAYED, num_kept=2)),
    }
    for said, time in per_parameter.items():
        assert time.flop_per_token / qwen3.products == pytest.approx(said)
        assert time.model_flop_per_token / qwen3.products == pytest.approx(6)
    assert time_of(qwen3, REPLAYED, mean_tokens=500.0).flop_per_token > per_parameter[8].flop_per_token


def test_adapters_save_the_weight_gradients() -> None:
    lora = count("Qwen3-0.6B", rank=16)
    assert time_of(lora, KEPT).flop_per_token == pytest.approx(4 * (lora.products + lora.adapters))


def test_the_known_estimate_of_150m_pairs() -> None:
    """45e9 tokens with the 8B model, 6NT = 2.05e21 FLOP with N of 7.57e9, 1,440 H100-hours at 40 %.

    Its N counts the embedding, ours does not.
    """
    model = count("Qwen3-8B")
    time = time_of(model, KEPT)
    tokens = sum(chunk.tokens for chunk in KEPT.chunks)
    hours = time.products / tokens * 45e9 / 3600
    assert hours * model.total / model.products == pytest.approx(1440, rel=0.01)


def test_traffic_by_engine(qwen3: Parameters) -> None:
    load = replace(REPLAYED, columns=6400)
    how, whole = Arithmetic(True), 4.0 * qwen3.total
    assert predict_traffic(qwen3, load, how, Parallelism.ddp, 1, 8).gradients_summed == 0
    ddp = predict_traffic(qwen3, load, how, Parallelism.ddp, 64, 8)
    assert (ddp.gradients_summed, ddp.weights_gathered) == (whole, 0)
    assert ddp.vectors_gathered == 6400 * 1024 * 4
    fsdp2 = predict_traffic(qwen3, load, how, Parallelism.fsdp2, 64, 8)
    layers = qwen3.total - qwen3.embedding
    assert fsdp2.weights_gathered == pytest.approx(2 * (12 * layers + 4 * qwen3.embedding), rel=0.02)
    assert fsdp2.gradients_scattered == pytest.approx(whole, rel=0.02)
    often = predict_traffic(qwen3, load, how, Parallelism.fsdp2, 64, 8, sync_every_chunk=True)
    assert often.gradients_scattered == 4 * fsdp2.gradients_scattered
    hsdp = predict_traffic(qwen3, load, how, Parallelism.hsdp, 64, 8)
    assert hsdp.gradients_summed == pytest.approx(whole / 8, rel=0.02)
    assert time_of(qwen3, load, ranks=64, engine=Parallelism.hsdp).exchange < (
        time_of(qwen3, load, ranks=64, engine=Parallelism.fsdp2).exchange
    ), "gathers stay within the node"


def test_the_update_reads_and_writes_28_bytes_a_number(qwen3: Parameters) -> None:
    """Weight, gradient and two moments are read, all but the gradient written; only a rank's own share."""
    bandwidth = GPUS["h100"].memory_bandwidth
    assert time_of(qwen3, REPLAYED).update == pytest.approx(28 * qwen3.total / bandwidth)
    sharded = time_of(qwen3, REPLAYED, ranks=8, engine=Parallelism.fsdp2).update
    assert sharded == pytest.approx(28 * qwen3.total / 8 / bandwidth, rel=0.01)


def test_disk(qwen3: Parameters) -> None:
    """12 bytes a parameter for each checkpoint; one more than are kept while the next is written."""
    size = 12 * qwen3.total
    common = {"tokens_per_row": 100.0, "texts_per_row": 2.0}
    one = predict_disk(qwen3, steps=100, save_every=None, keep_last=2, rows=None, **common)
    assert (one.checkpoint, one.checkpoints, one.token_store) == (size, size, None)
    kept = predict_disk(qwen3, steps=100, save_every=10, keep_last=2, rows=1000, **common)
    assert kept.checkpoints == 3 * size
    assert kept.token_store == 1000 * (400 + 32 + 12)
    best = predict_disk(qwen3, steps=100, save_every=10, keep_last=2, rows=None, keeps_best=True, **common)
    assert best.checkpoints == 4 * size
    assert kept.total == kept.checkpoints + 444_000
    assert predict_disk(qwen3, steps=95, save_every=10, keep_last=None, rows=None, **common).checkpoints == 10 * size
