"""Models with random weights, batches of random token ids, and whole steps on them: for speed, memory and exactness.

Nothing is downloaded: the shapes of Qwen3's models are built into the planner.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.objectives import EmbeddingObjective


def qwen3_shape(size: str, layers: int) -> Any:
    """The transformers configuration of Qwen3-0.6B, -4B or -8B with so many layers."""
    from qwen3emb_train.planning.parameters import load_model_shape

    return load_model_shape(ModelConfig(path=f"Qwen/Qwen3-{size}", num_layers=layers))


def small_shape(layers: int = 2, hidden: int = 64) -> Any:
    """The same architecture with a few thousand weights, for a CPU."""
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=4, num_key_value_heads=2,
        head_dim=hidden // 4, vocab_size=512, num_hidden_layers=layers, max_position_embeddings=32_768,
    )  # fmt: skip


def write_random_model(directory: Path, shape: Any, device: torch.device | str = "cpu") -> Path:
    """A model directory without tokenizer.

    Matrices have the standard deviation 1 / sqrt(hidden size): with transformers' 0.02 all texts look alike to a narrow
    model.

    Args:
        directory: created.
        shape: transformers configuration.
        device: where the weights are drawn.
    """
    from transformers import AutoModel

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(shape, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=shape.hidden_size**-0.5)
    model.save_pretrained(directory)
    return directory


def load_on(model: Path, device: torch.device, **settings: Any) -> Encoder:
    """The encoder on its device; the settings are ModelConfig's."""
    return load_encoder(ModelConfig(path=str(model), **settings)).to(device)


def log_normal_lengths(texts: int, mean: int) -> Tensor:
    """Lengths of 4 to 4 x mean tokens, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    location = torch.tensor(float(mean)).log().item() - 0.18
    return torch.empty(texts).log_normal_(location, 0.6, generator=generator).long().clamp(4, 4 * mean)


def random_batch(lengths: Tensor, vocabulary: int, prefix: int = 0) -> EmbeddingBatch:
    """Queries with one positive each, no hard negatives, all texts different.

    Args:
        lengths: of the queries, then of their positives.
        vocabulary: number of token ids.
        prefix: queries of more tokens begin with so many equal ones (an instruction).
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocabulary, (int(lengths.sum()),), generator=generator)
    starts, queries = lengths.cumsum(0) - lengths, len(lengths) // 2
    for start, length in zip(starts[:queries].tolist(), lengths[:queries].tolist(), strict=True):
        if length > prefix:
            ids[start : start + prefix] = ids[:prefix]
    numbers = torch.arange(queries)
    return EmbeddingBatch(
        texts=PackedTokens.gather(ids, starts, lengths),
        query_idx=numbers, positive_idx=numbers + queries, positive_query_idx=numbers,
        negative_idx=numbers[:0], negative_query_idx=numbers[:0], text_hash=torch.arange(2 * queries),
    )  # fmt: skip


def whole_step(
    objective: EmbeddingObjective, engine: Engine, batch: EmbeddingBatch, lr: float = 1e-6
) -> Callable[[], tuple[float, float]]:
    """Forward, backward, clip, update; returns loss and gradient norm.

    Args:
        objective: of the engine.
        engine: with its optimizer.
        batch: the same at each step.
        lr: of the update.
    """

    def step() -> tuple[float, float]:
        metrics = objective.forward_backward(batch)
        engine.finish_backward(1.0)
        norm = engine.update(lr)
        return float(metrics["loss"]), norm

    return step
