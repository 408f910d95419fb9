"""Memory by part: against a measured run, the gradient cache's own rule, and in the direction of each setting."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import chunk_by_tokens
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.quantization import Quantization
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.load import TracedModel
from qwen3emb_train.planning.memory import (
    Memory,
    Parallelism,
    StepLoad,
    casts_weights,
    count_kept,
    predict_memory,
    shard,
)
from qwen3emb_train.planning.parameters import Parameters
from qwen3emb_train.planning.tracing import How
from qwen3emb_train.training.engines.deepspeed import REDUCE_BUCKET_ELEMENTS, _complete
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.gradient_cache import GradientCache
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer
from tests.planning.measure_memory import Setting, chunk_lengths, make_batch, measure
from tests.planning.models import write_model

LENGTHS = tuple(30 + (i * 37) % 60 for i in range(28))


GPU = How(bf16=True, mean_tokens=100)


@pytest.fixture(scope="module")
def traced() -> TracedModel:
    return TracedModel(ModelConfig(path="Qwen/Qwen3-0.6B"), GPU)


@pytest.fixture(scope="module")
def qwen3(traced: TracedModel) -> Parameters:
    return traced.parameters


def load_of(chunks: tuple[int, ...], kept: int = 0, **changes: object) -> StepLoad:
    texts = max(sum(chunks) // 100, 1)
    settings = {"texts": texts, "rows": texts, "columns": 0, "scores": texts * texts, "tile_elements": 2**24}
    return StepLoad(chunks, kept, **(settings | changes))  # type: ignore[arg-type]


def predict(
    traced: TracedModel,
    load: StepLoad,
    engine: Parallelism = Parallelism.ddp,
    ranks: int = 1,
    sync_every_chunk: bool = False,
) -> Memory:
    model = traced.parameters
    sharding = shard(model, engine, ranks, 8, True, num_passes=load.num_passes, sync_every_chunk=sync_every_chunk)
    trace = traced.trace(casts_weights(engine, ranks))
    return predict_memory(model, load, sharding, {n: trace.chunk(n, GPUS["h100"]) for n in load.chunks})


@pytest.mark.slow
def test_prediction_is_within_15_percent_of_a_measured_run(tmp_path: Path) -> None:
    """Two real steps in a fresh process: peak resident memory above what was resident before loading."""
    small = write_model(tmp_path / "small")
    model = write_model(
        tmp_path / "model",
        vocab_size=8000,
        hidden_size=384,
        intermediate_size=1152,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
    )
    setting = Setting(str(model), str(small), LENGTHS, tokens_per_chunk=900)
    chunks = chunk_lengths(LENGTHS, setting.tokens_per_chunk)
    cells = sum(len(chunk) * max(chunk) for chunk in chunks) / sum(LENGTHS)
    how = How(False, on_gpu=False, mean_tokens=sum(LENGTHS) // len(LENGTHS), cells_per_token=cells)
    traced = TracedModel(ModelConfig(path=setting.model), how)
    count = len(LENGTHS)
    load = StepLoad(tuple(map(sum, chunks)), 0, count, count, 0, 3 * (count // 2) ** 2, 2**24)
    predicted = predict(traced, load)
    measured = measure(setting)
    assert predicted.parts["activations"] > 0.3 * predicted.total, "vacuous: weights alone would be predicted"
    assert predicted.total == pytest.approx(measured, rel=0.15)


def test_chunks_are_kept_by_the_gradient_caches_own_rule(tmp_path: Path) -> None:
    from qwen3emb_train.models.loading import load_encoder

    encoder = load_encoder(ModelConfig(path=str(write_model(tmp_path))))
    engine = SingleEngine(encoder, build_optimizer(encoder, OptimizerConfig()), Precision.fp32, torch.device("cpu"))
    batch = make_batch(LENGTHS, vocabulary=90)
    lengths = batch.texts.lengths
    for per_chunk, with_graph in itertools.product((100, 300, 5000), (0, 250, 10_000, "exactly the last two")):
        tokens = [int(lengths[chunk].sum()) for chunk in chunk_by_tokens(lengths, per_chunk)]
        if isinstance(with_graph, str):
            with_graph = sum(tokens[-2:])
        cache = GradientCache(engine, per_chunk, with_graph)
        cache.encode(batch.texts)
        kept = [chunk for chunk in cache._chunks if chunk.vectors is not None]
        assert count_kept(tokens, with_graph) == len(kept)


def test_static_bytes_of_full_training_on_one_rank(traced: TracedModel, qwen3: Parameters) -> None:
    """16 bytes a parameter, plus 2 for each bf16 copy."""
    memory = predict(traced, load_of((8192, 8192)))
    static = [memory.parts[name] for name in ("weights", "gradients", "AdamW moments")]
    assert static == [4 * qwen3.total, 4 * qwen3.total, 8 * qwen3.total]
    assert memory.parts["bf16 copies"] == pytest.approx(2 * qwen3.products, rel=0.01)
    assert memory.moment == "replay"
    assert memory.total == sum(memory.parts.values()) == memory.by_moment["replay"]


def test_more_chunks_cost_nothing_kept_graphs_do(traced: TracedModel, qwen3: Parameters) -> None:
    two, eight = predict(traced, load_of((4096,) * 2)), predict(traced, load_of((4096,) * 8))
    assert two.by_moment["replay"] == pytest.approx(eight.by_moment["replay"], rel=1e-3)
    kept = predict(traced, load_of((4096,) * 8, kept=3))
    assert kept.parts["bf16 copies"] == pytest.approx(6 * qwen3.products, rel=0.01), "every graph owns its copies"
    assert kept.total > eight.total


def test_gradients_are_not_there_while_the_first_chunk_is_replayed(traced: TracedModel, qwen3: Parameters) -> None:
    """A lone chunk's graph is gone when its gradients are whole."""
    alone = predict(traced, load_of((8192,), kept=1))
    assert alone.moment == "backward"
    assert alone.parts["gradients"] == 0
    texts = 81  # load_of's: distinct texts with gradients, and the rows kept for health metrics
    assert alone.parts["vectors"] == 4 * qwen3.hidden * (2 * texts + texts)
    several = predict(traced, load_of((8192, 8192)))
    assert several.total - several.parts["vectors"] == pytest.approx(
        alone.total - alone.parts["vectors"] + several.parts["gradients"]
    )


def test_each_moment_holds_what_is_alive_then(traced: TracedModel, qwen3: Parameters) -> None:
    """A large first chunk is replayed before there are gradients; the small second one beside them."""
    load = load_of((8192, 256), texts=300, rows=400, columns=500)
    memory = predict(traced, load)
    assert (memory.moment, memory.parts["gradients"]) == ("replay", 0)
    assert memory.parts["vectors"] == 4 * qwen3.hidden * (2 * 300 + 400 + 500)
    always = 12 * qwen3.total
    encoding = traced.trace(False).chunk(8192, GPUS["h100"]).forward_peak
    assert memory.by_moment["encode"] == always + encoding + 4 * qwen3.hidden * 300
    assert memory.by_moment["update"] == always + 4 * qwen3.total + 4 * qwen3.hidden * 900
    small = predict(traced, load_of((256, 256)))
    assert small.parts["gradients"] == 4 * qwen3.total


def test_what_each_engine_shards(traced: TracedModel, qwen3: Parameters) -> None:
    """Per rank on 64 GPUs in nodes of 8; gradients stay whole until the one exchange of a step."""
    load = load_of((4096, 4096), columns=64 * 80)
    parts = {engine: predict(traced, load, engine, 64).parts for engine in Parallelism}
    whole = 4 * qwen3.total
    part = 1 / 64
    assert parts[Parallelism.ddp].get("exchange", 0) == 0, "DDP's buckets are the gradients"
    for engine, weights, gradients, moments in (
        (Parallelism.ddp, 1, 1, 2),
        (Parallelism.zero1, 1 + part, 1 + part, 2 * part),
        (Parallelism.zero2, 1 + part, 1 + part, 2 * part),
        (Parallelism.zero3, 2 * part, 1 + part, 2 * part),
        (Parallelism.fsdp2, part, 1 + part, 2 * part),
        (Parallelism.hsdp, 1 / 8, 1 + 1 / 8, 2 / 8),
    ):
        found = [parts[engine][name] / whole for name in ("weights", "gradients", "AdamW moments")]
        assert found == pytest.approx([weights, gradients, moments], rel=2e-2), engine
    early = predict(traced, load, Parallelism.fsdp2, 64, sync_every_chunk=True)
    assert early.parts["gradients"] == pytest.approx(whole * part, rel=2e-2)
    assert shard(qwen3, Parallelism.fsdp2, 64, 8, True, num_passes=1).gradients == early.parts["gradients"]
    bucket = parts[Parallelism.zero1]["exchange"]
    assert bucket == 4 * REDUCE_BUCKET_ELEMENTS == 2_000_000_000, "whole, although the model has fewer gradients"
    assert predict(traced, load, Parallelism.fsdp2, 1).parts == predict(traced, load, Parallelism.ddp, 1).parts


def test_a_quantised_base_takes_an_eighth_and_leaves_no_copies() -> None:
    config = ModelConfig(path="Qwen/Qwen3-8B", lora=LoraConfig(rank=16))
    plain, nf4 = TracedModel(config, GPU), TracedModel(replace(config, quantization=Quantization.nf4), GPU)
    products = plain.parameters.products
    assert nf4.parameters.weight_bytes == pytest.approx(
        plain.parameters.weight_bytes - (2 - 0.516) * products,
        rel=1e-3,  # frozen products are bf16 either way
    )
    found = predict(nf4, load_of((4096, 4096))).parts
    assert found["weights"] == nf4.parameters.weight_bytes
    assert found["bf16 copies"] == pytest.approx(2 * nf4.parameters.adapters, rel=0.2)


def test_the_loss_is_what_counts_where_columns_are_many(traced: TracedModel, qwen3: Parameters) -> None:
    load = load_of((256,), kept=1, rows=256, columns=512 * 256, scores=2**30)
    memory = predict(traced, load, ranks=512)
    assert memory.moment == "loss"
    assert memory.parts["loss tile"] == 4 * 3 * 2**24
    prefixes = predict(traced, replace(load, prefixes=2.0), ranks=512)
    assert prefixes.parts["vectors"] > 1.4 * memory.parts["vectors"]
    small = predict(traced, replace(load, scores=1000), ranks=512)
    assert small.parts["loss tile"] == 4 * 3 * 1000


@pytest.mark.parametrize("given", [{}, {"reduce_bucket_size": "auto"}])
def test_deepspeed_is_told_the_bucket_that_plan_counts(given: dict[str, str]) -> None:
    """Whatever its own default is; a launcher's number wins."""
    settings = _complete({"zero_optimization": {"stage": 1, **given}}, None)["zero_optimization"]
    assert settings["reduce_bucket_size"] == REDUCE_BUCKET_ELEMENTS
    own = _complete({"zero_optimization": {"reduce_bucket_size": 7}}, None)["zero_optimization"]
    assert own["reduce_bucket_size"] == 7
