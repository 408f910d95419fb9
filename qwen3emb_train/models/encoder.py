"""Encoder: a Hugging Face decoder and last-token pooling."""

from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.text_model import TextModel


class Encoder(TextModel):
    """Texts to vectors: the last layer's (normed) state at the EOS token, not L2-normalised.

    Build it with ``models.loading.load_encoder``.
    """

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self.config.hidden_size)

    def forward(self, tokens: PackedTokens) -> Float[Tensor, "texts dim"]:
        """One float32 (or wider) vector for each packed text."""
        return self.last_states(tokens)
