"""Families name their sizes differently, or have none: what reads them finds them, or refuses in one line."""

from pathlib import Path

import pytest

from qwen3emb_train.export.backbone import dim_and_positions
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.packing import PACKED
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.load import TracedModel
from qwen3emb_train.planning.parameters import build_meta_model, load_model_shape
from qwen3emb_train.planning.tracing import How
from tests.models.families import make_family


@pytest.mark.parametrize(("family", "positions"), [("GPT-2", 1024), ("BLOOM", None), ("OPT", 1024)])
def test_dimension_and_positions_of_an_export(family: str, positions: int | None, tmp_path: Path) -> None:
    assert dim_and_positions(make_family(family, tmp_path / "model")) == (32, positions)


@pytest.mark.parametrize("family", ["GPT-2", "BLOOM", "OPT", "Falcon (ALiBi)", "Mamba"])
def test_they_are_planned(family: str, tmp_path: Path) -> None:
    """Mamba has no attention heads."""
    traced = TracedModel(ModelConfig(path=str(make_family(family, tmp_path / "model"))), How(bf16=False, mean_tokens=9))
    assert (traced.parameters.hidden, traced.parameters.layers) == (32, 4)
    assert traced.trace(False).chunk(90, GPUS["h100"]).forward_flop > 2 * 90 * 0.99 * traced.parameters.products


def test_attention_that_cannot_be_replaced_is_planned_padded(tmp_path: Path) -> None:
    config = ModelConfig(path=str(make_family("Falcon (ALiBi)", tmp_path / "model")))
    assert build_meta_model(config, load_model_shape(config)).config._attn_implementation != PACKED
