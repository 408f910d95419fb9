"""The cost model gives the known rules of thumb: FLOP of a token, bytes of a step's collectives."""

from dataclasses import replace

import pytest

from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.planning.cost import StepTime, predict_disk, predict_traffic, step_time
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.load import TracedModel
from qwen3emb_train.planning.memory import Parallelism, StepLoad, casts_weights, shard
from qwen3emb_train.planning.parameters import Parameters
from qwen3emb_train.planning.tracing import How

REPLAYED = StepLoad((4096,) * 4, 0, 100, 100, 0, 100, 2**24)
KEPT = replace(REPLAYED, num_kept=4)


def traced_model(name: str, rank: int = 0, mean_tokens: int = 4, checkpointing: bool = False) -> TracedModel:
    config = ModelConfig(path=f"Qwen/{name}", lora=LoraConfig(rank=rank), activation_checkpointing=checkpointing)
    return TracedModel(config, How(bf16=True, mean_tokens=mean_tokens))


@pytest.fixture(scope="module")
def traced() -> TracedModel:
    return traced_model("Qwen3-0.6B")


@pytest.fixture(scope="module")
def qwen3(traced: TracedModel) -> Parameters:
    return traced.parameters


def time_of(
    traced: TracedModel, load: StepLoad, *, ranks: int = 1, engine: Parallelism = Parallelism.ddp, gpu: str = "h100"
) -> StepTime:
    casts = casts_weights(engine, ranks)
    trace = traced.trace(casts)
    return step_time(
        traced.parameters,
        load,
        shard(traced.parameters, engine, ranks, 8, True),
        {tokens: trace.chunk(tokens, GPUS[gpu]) for tokens in load.chunks},
        GPUS[gpu],
        engine=engine,
        ranks=ranks,
        gpus_per_node=8,
        casts=casts,
    )


def test_six_to_ten_flop_a_token_and_parameter(traced: TracedModel) -> None:
    """Plain 6N, gradient caching 8N, with activation checkpointing nearly 10N; half kept graphs 7N."""
    per_parameter = {
        6.0: time_of(traced, KEPT),
        8.0: time_of(traced, REPLAYED),
        7.0: time_of(traced, replace(REPLAYED, num_kept=2)),
    }
    for said, time in per_parameter.items():
        assert time.flop_per_token / traced.parameters.products == pytest.approx(said, rel=0.01)
        assert time.model_flop_per_token / traced.parameters.products == pytest.approx(6, rel=0.01)
    recomputing = time_of(traced_model("Qwen3-0.6B", checkpointing=True), REPLAYED)
    assert 9.5 < recomputing.flop_per_token / traced.parameters.products < 10, (
        "a layer's last product is not recomputed"
    )
    long = time_of(traced_model("Qwen3-0.6B", mean_tokens=500), REPLAYED)
    assert long.flop_per_token > 1.02 * per_parameter[8.0].flop_per_token
    assert per_parameter[6.0].encoder < per_parameter[7.0].encoder < per_parameter[8.0].encoder < recomputing.encoder


def test_adapters_save_the_weight_gradients() -> None:
    lora = traced_model("Qwen3-0.6B", rank=16)
    model = lora.parameters
    assert time_of(lora, KEPT).flop_per_token == pytest.approx(4 * model.products + 6 * model.adapters, rel=0.03)


def test_8b_kept_reaches_what_well_tuned_training_reaches() -> None:
    """About 40 % MFU on H100s; 0.6B, whose kernels mostly move numbers, far less."""
    shares = {}
    for name in ("Qwen3-0.6B", "Qwen3-8B"):
        model = traced_model(name, mean_tokens=256)
        time = time_of(model, replace(KEPT, chunks=(16_384,) * 4))
        shares[name] = time.model_flop_per_token * 65_536 / time.encoder / GPUS["h100"].bf16_flops
    assert 0.3 < shares["Qwen3-8B"] < 0.6
    assert shares["Qwen3-0.6B"] < 0.75 * shares["Qwen3-8B"]


def test_the_losss_products_are_float32(traced: TracedModel) -> None:
    """1,024 queries x 65,536 documents of 1,024 components: four products of 2 FLOP."""
    load = replace(REPLAYED, scores=1024 * 65_536)
    flop = 8 * 1024 * 65_536 * 1024
    assert time_of(traced, load).loss == pytest.approx(flop / (0.7 * 67e12))
    assert time_of(traced, replace(load, prefixes=2.0)).loss == pytest.approx(2 * flop / (0.7 * 67e12))


def test_traffic_by_engine(traced: TracedModel, qwen3: Parameters) -> None:
    load = replace(REPLAYED, columns=6400)
    whole = 4.0 * qwen3.total
    assert predict_traffic(qwen3, load, Parallelism.ddp, 1, 8, True).gradients_summed == 0
    ddp = predict_traffic(qwen3, load, Parallelism.ddp, 64, 8, True)
    assert (ddp.gradients_summed, ddp.weights_gathered) == (whole, 0)
    assert ddp.vectors_gathered == ddp.vectors_scattered == 6400 * 1024 * 4
    fsdp2 = predict_traffic(qwen3, load, Parallelism.fsdp2, 64, 8, True)
    layers = qwen3.total - qwen3.embedding
    assert fsdp2.weights_gathered == pytest.approx(2 * (12 * layers + 4 * qwen3.embedding), rel=0.02)
    assert fsdp2.gradients_scattered == pytest.approx(whole, rel=0.02)
    often = predict_traffic(qwen3, load, Parallelism.fsdp2, 64, 8, True, sync_every_chunk=True)
    assert often.gradients_scattered == 4 * fsdp2.gradients_scattered
    hsdp = predict_traffic(qwen3, load, Parallelism.hsdp, 64, 8, True)
    assert hsdp.gradients_summed == pytest.approx(whole / 8, rel=0.02)
    assert time_of(traced, load, ranks=64, engine=Parallelism.hsdp).exchange < (
        time_of(traced, load, ranks=64, engine=Parallelism.fsdp2).exchange
    ), "gathers stay within the node"


def test_the_update_reads_and_writes_28_bytes_a_number(traced: TracedModel, qwen3: Parameters) -> None:
    """Weight, gradient and two moments are read, all but the gradient written; only a rank's own share."""
    bandwidth = GPUS["h100"].memory_bandwidth
    assert time_of(traced, REPLAYED).update == pytest.approx(28 * qwen3.total / bandwidth)
    sharded = time_of(traced, REPLAYED, ranks=8, engine=Parallelism.fsdp2).update
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
