"""How mining and selection turn texts into vectors."""

from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.selection.config import SelectPairsConfig
from qwen3emb_train.models.embed_config import EmbedConfig, TextRole


def vector_settings(
    config: MiningConfig | SelectPairsConfig, role: TextRole, instruction: str | None = None
) -> EmbedConfig:
    """A program's settings in the words of ``embed``; ``instruction`` as there."""
    return EmbedConfig(
        role=role,
        instruction=instruction,
        max_tokens=config.max_tokens,
        num_layers=config.num_layers,
        precision=config.precision,
        tokens_per_batch=config.tokens_per_batch,
        texts_per_batch=config.texts_per_batch,
        num_processes=config.num_processes,
        overwrite=config.overwrite,
    )
