"""One real step on up to 512 ranks that are not there."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.dry_run import count_collectives, predicted_bytes
from qwen3emb_train.planning.fake_ranks import fake_ranks
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.planning.parameters import (
    build_meta_model,
    count_parameters,
    load_model_shape,
    sharded_elements,
)
from qwen3emb_train.planning.shapes import sharded_bytes
from qwen3emb_train.training.engines.ddp import DDPEngine

MODEL = ModelConfig(path="Qwen/Qwen3-0.6B")


def config_of(engine: Parallelism, **changes: object) -> PlanConfig:
    settings = {"model": MODEL, "data": {"x": SourceConfig(path="x")}, "engine": engine}
    return PlanConfig(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "gather_hard_negatives"),
    [(Parallelism.ddp, False), (Parallelism.ddp, True), (Parallelism.fsdp2, False), (Parallelism.hsdp, True)],
)
def test_a_steps_bytes_are_the_predicted_ones_at_any_number_of_ranks(
    engine: Parallelism, gather_hard_negatives: bool
) -> None:
    """Invariant: gathers, sums and scatters of the real objective under the real engine == the plan's formulas."""
    config = config_of(engine, loss=InfoNCE(gather_hard_negatives=gather_hard_negatives))
    for num_ranks in (16, 512):
        found, parameters, load = count_collectives(config, num_ranks)
        said = predicted_bytes(config, parameters, load, num_ranks)
        assert {kind: found.bytes[kind] for kind in said} == pytest.approx(said, rel=1e-6), num_ranks
        assert set(found.bytes) <= {*said, "small"}


@pytest.mark.parametrize("engine", [Parallelism.ddp, Parallelism.fsdp2])
def test_the_number_of_collectives_does_not_grow_with_ranks(engine: Parallelism) -> None:
    calls = [count_collectives(config_of(engine), num_ranks)[0].calls for num_ranks in (2, 64, 512)]
    assert calls[0] == calls[1] == calls[2]
    assert calls[0]["small"] < 16


def test_vectors_gradients_are_scattered_as_on_a_cluster() -> None:
    """DDP: the sum is the parameters' gradients alone; half the traffic of an all-reduce of the vectors' too."""
    found, parameters, load = count_collectives(config_of(Parallelism.ddp), 8)
    assert found.bytes["scatter"] == found.bytes["gather"] == 4 * parameters.hidden * load.columns
    assert found.bytes["sum"] == 4 * parameters.trained


def test_gradients_are_exchanged_once_however_many_chunks() -> None:
    """DDP: the same collectives for 1, 3 and 6 chunks. FSDP2: one scatter of each group of parameters, and
    those of queries' and documents' gradients."""
    by_chunks = [count_collectives(config_of(Parallelism.ddp), 8, num_chunks=n)[0] for n in (1, 3, 6)]
    assert by_chunks[0].calls == by_chunks[1].calls == by_chunks[2].calls
    assert by_chunks[0].bytes == by_chunks[1].bytes == by_chunks[2].bytes
    assert [
        count_collectives(config_of(Parallelism.fsdp2), 8, num_chunks=n)[0].calls["scatter"] for n in (1, 3, 6)
    ] == [5] * 3


def test_an_engine_that_exchanges_after_every_chunk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail."""
    real = DDPEngine.forward
    monkeypatch.setattr(DDPEngine, "forward", lambda self, tokens, *, last=False: real(self, tokens, last=True))
    back = DDPEngine.backward
    monkeypatch.setattr(DDPEngine, "backward", lambda self, scalar, *, last=False: back(self, scalar, last=True))
    config = config_of(Parallelism.ddp)
    found, parameters, load = count_collectives(config, 8)
    assert found.bytes["sum"] > 2 * predicted_bytes(config, parameters, load, 8)["sum"]


@pytest.mark.parametrize(("ranks", "replicas"), [(8, 1), (512, 1), (512, 64)])
def test_fsdp_shards_the_true_shapes_as_predicted(ranks: int, replicas: int) -> None:
    """Of the 8B model, on the meta device, to the byte."""
    config = ModelConfig(path="Qwen/Qwen3-8B")
    model = build_meta_model(config, load_model_shape(config))
    shapes = count_parameters(model).shapes
    assert sharded_bytes(model, ranks, replicas) == 4 * sharded_elements(shapes, ranks // replicas)
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters()), "the model was copied"


def test_a_dry_run_leaves_no_process_group_and_joins_none(tmp_path: Path) -> None:
    count_collectives(config_of(Parallelism.ddp), 4)
    assert not dist.is_initialized()
    with fake_ranks(2), pytest.raises(RuntimeError, match="without a launcher"), fake_ranks(4):
        pass
    with pytest.raises(KeyError), fake_ranks(2):
        raise KeyError
    assert not dist.is_initialized()
