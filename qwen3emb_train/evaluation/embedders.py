"""One face for the two kinds of model directory: an export (Sentence-Transformers) and any other (our encoder).

An export is loaded exactly as a user loads it, so that what is measured is what was published.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query, query_prompt
from qwen3emb_train.models.inference import TextEncoder
from qwen3emb_train.models.loading import quiet_transformers
from qwen3emb_train.models.precision import Precision, resolve_device, resolve_precision

INSTALL_SENTENCE_TRANSFORMERS = "pip install 'qwen3emb-train[eval]' (sentence-transformers)"


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors.

    Attributes:
        max_tokens: longest text; an export's own limit holds where it is lower.
        precision: of the matrix products ("auto": bf16 where the hardware multiplies it faster).
        tokens_per_batch: tokens encoded at once by our encoder.
        texts_per_batch: texts encoded at once by Sentence-Transformers.
    """

    max_tokens: int = 8192
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    texts_per_batch: int = 32


@dataclass(frozen=True)
class Embedder:
    """Queries and documents to full-width, L2-normalised float32 vectors on the CPU.

    Attributes:
        encode_queries: takes the queries and an instruction (None: the model's own; "": none).
        encode_documents: takes the documents; they carry no instruction.
    """

    encode_queries: Callable[[Sequence[str], str | None], Float[Tensor, "texts dim"]]
    encode_documents: Callable[[Sequence[str]], Float[Tensor, "texts dim"]]


def load_embedder(directory: str, settings: EmbeddingSettings, num_layers: int | None = None) -> Embedder:
    """An export (it has a ``modules.json``) through Sentence-Transformers, any other directory through TextEncoder.

    Args:
        num_layers: use only the first layers; not for an export, which is measured as it was published.
    """
    if (Path(directory) / "modules.json").is_file():
        if num_layers is not None:
            raise ValueError(f"{directory} is an export: it is measured as it is. Remove its num_layers.")
        return _sentence_transformer(directory, settings)
    encoder = TextEncoder.load(
        directory, num_layers=num_layers, max_tokens=settings.max_tokens, precision=settings.precision.value
    )

    def encode_queries(queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        instruction = DEFAULT_INSTRUCTION if instruction is None else instruction
        return encode_documents([format_query(instruction, query) for query in queries])

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return encoder.encode(documents, tokens_per_batch=settings.tokens_per_batch)

    return Embedder(encode_queries, encode_documents)


def _sentence_transformer(directory: str, settings: EmbeddingSettings) -> Embedder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ImportError(
            f"{directory} is a Sentence-Transformers model; to load it: {INSTALL_SENTENCE_TRANSFORMERS}."
        ) from None
    device = resolve_device("auto")
    bf16 = resolve_precision(settings.precision, device) is Precision.bf16
    with quiet_transformers():
        model: Any = SentenceTransformer(
            directory,
            device=str(device),
            local_files_only=True,
            model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32},
        )
    model.max_seq_length = min(model.max_seq_length or settings.max_tokens, settings.max_tokens)
    own_prompt = (model.prompts or {}).get("query") or ""
    encoding = {
        "batch_size": settings.texts_per_batch,
        "normalize_embeddings": True,
        "convert_to_tensor": True,
        "show_progress_bar": False,
    }

    def encode_queries(queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        # A model without a query prompt was not trained with instructions: giving it one would only mislead it.
        prompt = query_prompt(instruction) if own_prompt and instruction else own_prompt if instruction is None else ""
        return model.encode_query(list(queries), prompt=prompt, **encoding).float().cpu()

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return model.encode_document(list(documents), **encoding).float().cpu()

    return Embedder(encode_queries, encode_documents)
