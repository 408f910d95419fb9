"""The language model of a vision-language checkpoint is loaded as text-only, and gives transformers' own vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import ModelConfig, load_encoder, load_reranker, save_model
from qwen3emb_train.models.text_parts import text_names
from tests.models.families import save_random_model
from tests.tiny import make_tiny_tokenizer

_TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 0,
    "eos_token_id": 2,
}  # fmt: skip
_ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}}
_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4,
}  # fmt: skip
_IMAGES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
# Configuration class, settings of the language model, of the images' tower, of both; the text-only architecture.
_MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "qwen3_vl": (
        "Qwen3VLConfig", _ROPE, _VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}, "qwen3",
    ),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", _ROPE, _VISION | {"fullatt_block_indexes": [0]}, {}, "qwen2"),
    "gemma3": (
        "Gemma3Config", {"sliding_window": 16, "query_pre_attn_scalar": 8}, _IMAGES,
        {"mm_tokens_per_image": 4, "image_token_index": 3}, "gemma3_text",
    ),
}  # fmt: skip
TEXTS = [[15, 16, 17, 8, 9, 10, 11, 12, 13, 0], [9, 10, 0], [*range(20, 60), 0]]


def make_vision_language_model(name: str, path: Path, *, tied: bool = True) -> Path:
    config_class, text, vision, rest, _ = _MODELS[name]
    path.mkdir()
    settings = _TEXT | text | {"vocab_size": make_tiny_tokenizer(path)}
    config = getattr(transformers, config_class)(
        text_config=settings, vision_config=vision, tie_word_embeddings=tied, **rest
    )
    save_random_model(transformers.AutoModelForImageTextToText, config, path)
    return path


@pytest.mark.parametrize("name", _MODELS)
def test_it_gives_the_vectors_of_the_whole_model_before_and_after_saving(name: str, tmp_path: Path) -> None:
    path = make_vision_language_model(name, tmp_path / "model")
    whole = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    encoder = load_encoder(ModelConfig(path=str(path))).eval()
    assert encoder.config.model_type == _MODELS[name][-1]
    save_model(encoder, tmp_path / "saved")
    with torch.no_grad():
        states = [whole.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in TEXTS]
        vectors = encoder(PackedTokens.from_lists(TEXTS))
        again = load_encoder(ModelConfig(path=str(tmp_path / "saved"))).eval()(PackedTokens.from_lists(TEXTS))
    torch.testing.assert_close(vectors, torch.stack(states), rtol=1e-4, atol=1e-4)
    assert torch.equal(again, vectors)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", _MODELS)
def test_a_reranker_has_its_head(name: str, tied: bool, tmp_path: Path) -> None:
    path = make_vision_language_model(name, tmp_path / "model", tied=tied)
    whole = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    reranker = load_reranker(ModelConfig(path=str(path)), (7, 8)).eval()
    with torch.no_grad():
        logits = torch.stack([whole(input_ids=torch.tensor([ids])).logits[0, -1, [7, 8]] for ids in TEXTS])
        found = reranker(PackedTokens.from_lists(TEXTS))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "old"), [("gemma3", "language_model.model."), ("qwen2_5_vl", "model.")])
def test_files_name_the_language_model_in_several_ways(name: str, old: str, tmp_path: Path) -> None:
    """The hub's have the older names, which transformers writes for these two."""
    path = make_vision_language_model(name, tmp_path / "model")
    expected = load_encoder(ModelConfig(path=str(path))).eval()(PackedTokens.from_lists(TEXTS))
    weights = load_file(path / "model.safetensors")
    renamed = {
        f"model.language_model.{stored.removeprefix(old)}" if stored.startswith(old) else stored: tensor
        for stored, tensor in weights.items()
    }
    assert renamed.keys() != weights.keys()
    save_file(renamed, path / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_encoder(ModelConfig(path=str(path))).eval()(PackedTokens.from_lists(TEXTS)), expected)
    assert len(text_names(renamed)) == len(text_names(weights))
