"""Parameters are counted, never loaded."""

from pathlib import Path

import pytest

from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.planning.parameters import (
    Parameters,
    build_meta_model,
    count_parameters,
    known_names,
    load_model_shape,
    sharded_elements,
)
from tests.planning.models import write_model, write_shape


def count(config: ModelConfig) -> Parameters:
    return count_parameters(build_meta_model(config, load_model_shape(config)))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", 595_776_512),
        ("Qwen/Qwen3-Embedding-4B", 4_021_774_336),
        ("Qwen/Qwen3-Embedding-8B", 7_567_295_488),
        ("Qwen/Qwen3-0.6B-Base", 595_776_512 + (151_936 - 151_669) * 1024),
    ],
)
def test_the_published_counts_without_network(name: str, total: int) -> None:
    """mteb's metrics for the released models (docs/sources.md); the base models have more rows of embeddings."""
    found = count(ModelConfig(path=name))
    assert (found.total, found.trained) == (total, total)
    assert found.total == found.products + found.embedding + found.layers * (2 * found.hidden + 256) + found.hidden


def test_every_model_group_of_the_vocabulary_is_known() -> None:
    assert {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B"} < set(known_names())


@pytest.mark.parametrize("rank", [0, 4])
def test_counts_are_those_of_the_model_that_training_loads(tmp_path: Path, rank: int) -> None:
    """Invariant: trained and total parameters, and the shapes, equal the real encoder's."""
    config = ModelConfig(path=str(write_model(tmp_path)), num_layers=2, lora=LoraConfig(rank=rank))
    encoder, found = load_encoder(config), count(config)
    real = list(encoder.parameters())
    assert found.total == sum(p.numel() for p in real)
    assert found.trained == sum(p.numel() for p in real if p.requires_grad)
    assert sorted(found.shapes) == sorted(tuple(p.shape) for p in real)
    assert found.weight_bytes == sum(p.numel() * p.element_size() for p in real)
    assert found.layers == 2
    assert (found.lora_rank, found.adapters > 0) == (rank, rank > 0)


def test_a_plan_reads_config_json_only(tmp_path: Path) -> None:
    found = count(ModelConfig(path=str(write_shape(tmp_path, "llama"))))
    assert found.total > found.embedding > 0


def test_an_unknown_name_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Qwen3-Embedding-8B"):
        load_model_shape(ModelConfig(path="nobody/nothing"))


def test_rows_are_cut_as_fsdp_cuts_them() -> None:
    assert sharded_elements([(10, 3), (2,)], 4) == 3 * 3 + 1
    assert sharded_elements([(10, 3), (2,)], 1) == 32
