"""Vectors for many texts: packed, sorted by length, cut by token budget. For mining, selection, evaluation, search."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.chunking import chunk_by_tokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.models.encoder import Encoder
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.pooling import truncate_and_normalize
from qwen3emb_train.models.precision import Precision, autocast, resolve_device, resolve_precision


class TextEncoder:
    """An encoder with its tokenizer, for inference.

    Attributes:
        encoder, tokenizer: the parts.
        max_tokens: longest text, the closing token included; longer ones are cut.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        *,
        max_tokens: int = 512,
        precision: Precision = Precision.auto,
        device: str = "auto",
    ) -> None:
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.encoder = encoder.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @staticmethod
    def load(
        path: str,
        *,
        num_layers: int | None = None,
        max_tokens: int = 512,
        precision: str = "auto",
        device: str = "auto",
    ) -> "TextEncoder":
        """Loads a model directory (a checkpoint's ``model/``, a merge, an export, a hub name)."""
        return TextEncoder(
            load_encoder(ModelConfig(path=path, num_layers=num_layers)),
            load_tokenizer(path),
            max_tokens=max_tokens,
            precision=Precision(precision),
            device=device,
        )

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], *, dim: int | None = None, tokens_per_batch: int = 8192
    ) -> Float[Tensor, "texts kept"]:
        """L2-normalised float32 vectors on the CPU, in the order of ``texts``.

        Args:
            dim: keep this Matryoshka prefix (truncated before the norm); None = the full vector.
            tokens_per_batch: tokens encoded at once.
        """
        vectors = torch.empty(len(texts), self.dim)
        tokens = self.tokenizer.tokenize(texts, self.max_tokens)
        lengths = torch.tensor([len(ids) for ids in tokens], dtype=torch.long)
        for chosen in chunk_by_tokens(lengths, tokens_per_batch):
            packed = PackedTokens.from_lists([tokens[i] for i in chosen.tolist()])
            if self.encoder.shares_prefixes:
                packed = share_prefixes(packed)
            with autocast(self.precision, self.device):
                vectors[chosen] = self.encoder(packed.to(self.device)).float().cpu()
        return truncate_and_normalize(vectors, dim)
