"""Small model directories for plans: shapes of a few kinds, random weights only where something is loaded."""

from pathlib import Path

import torch


def write_shape(path: Path, family: str = "qwen3", **changes: int) -> Path:
    """A directory with nothing but config.json: all that a plan may read of a model."""
    tiny_shape(family, **changes).save_pretrained(path)
    return path


def write_model(path: Path, family: str = "qwen3", **changes: int) -> Path:
    """A directory with weights."""
    from transformers import AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(tiny_shape(family, **changes), dtype=torch.float32).save_pretrained(path)
    return path


def tiny_shape(family: str, **changes: int):  # type: ignore[no-untyped-def]
    from transformers import Gemma3TextConfig, LlamaConfig, Qwen3Config

    shape = {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
    }
    families = {"qwen3": Qwen3Config, "llama": LlamaConfig, "gemma3": Gemma3TextConfig}
    return families[family](**(shape | changes))
