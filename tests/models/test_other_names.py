"""Families name their sizes differently, or have none: what reads them finds them, or refuses in one line."""

from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train.export.backbone import dim_and_positions
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.planning.parameters import build_meta_backbone, count_parameters, load_model_shape
from tests.models.families import make_family


@pytest.mark.parametrize(("family", "positions"), [("GPT-2", 1024), ("BLOOM", None), ("OPT", 1024)])
def test_dimension_and_positions_of_an_export(family: str, positions: int | None, tmp_path: Path) -> None:
    assert dim_and_positions(make_family(family, tmp_path / "model")) == (32, positions)


@pytest.mark.parametrize("family", ["GPT-2", "BLOOM", "OPT", "Falcon (ALiBi)"])
def test_a_plan_counts_their_parameters(family: str, tmp_path: Path) -> None:
    config = ModelConfig(path=str(make_family(family, tmp_path / "model")))
    counted = count_parameters(build_meta_backbone(config, load_model_shape(config)))
    assert (counted.hidden, counted.heads, counted.layers) == (32, 4, 4)
    assert counted.intermediate in (64, 128)


def test_a_model_without_heads_gets_no_plan(tmp_path: Path) -> None:
    config = ModelConfig(path=str(make_family("Mamba", tmp_path / "model")))
    backbone: Any = build_meta_backbone(config, load_model_shape(config))
    backbone.config.num_attention_heads = None  # as published ones
    with pytest.raises(ValueError, match="no plan can be made for mamba"):
        count_parameters(backbone)
