"""One interface to every kind of embedding model: our model directories, exports, any Sentence-Transformers model.

An export is loaded exactly as a user loads it, so that what is measured is what was published. Where only speed matters
(mining, ``embed``) it can run in our packed encoder, which gives the same vectors.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.tokenization import refuse_missing_directory
from qwen3emb_train.index.inference import ParallelTextEncoder, TextEncoder
from qwen3emb_train.index.model_files import model_file, model_json
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.lineage import digest
from qwen3emb_train.model_directory import LAST_TOKEN, POOLING_PATH, reading_model
from qwen3emb_train.models.loading import quiet_transformers
from qwen3emb_train.models.precision import Precision, resolve_device, resolve_precision

_INSTALL_SENTENCE_TRANSFORMERS = "pip install 'qwen3emb-train[mine]' (sentence-transformers)"
_UNLIMITED = 2**30


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors.

    Attributes:
        max_tokens: maximum tokens of a text; a Sentence-Transformers model's own limit applies where it is lower.
        precision: of the matrix products ("auto": bf16 where the hardware multiplies it faster).
        tokens_per_batch: tokens encoded at once by our encoder.
        texts_per_batch: texts encoded at once by Sentence-Transformers.
        device: "auto" is CUDA where there is one, else the CPU.
        num_processes: of our encoder: on a CPU, or one per GPU. Sentence-Transformers models have one.
    """

    max_tokens: int = 8192
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    texts_per_batch: int = 32
    device: str = "auto"
    num_processes: int = 1


@dataclass(frozen=True)
class Embedder:
    """Queries and documents to full-width, L2-normalised float32 vectors on the CPU.

    Attributes:
        encode_queries: takes the queries and an instruction (None: the model's own; "": none).
        encode_documents: takes the documents; they have no instruction.
    """

    encode_queries: Callable[[Sequence[str], str | None], Float[Tensor, "texts dim"]]
    encode_documents: Callable[[Sequence[str]], Float[Tensor, "texts dim"]]


def load_embedder(
    model: str, settings: EmbeddingSettings, num_layers: int | None = None, *, as_published: bool = True
) -> Embedder:
    """Loads a model directory or hub name of any kind.

    One with a ``modules.json`` is an export or another Sentence-Transformers model and loaded by that library; any
    other one is ours.

    Args:
        model: the directory or name.
        settings: how to encode.
        num_layers: use only the first layers; not for an export, which is measured as it was published.
        as_published: False: a Sentence-Transformers model with last-token pooling runs in our packed encoder.

    Raises:
        FileNotFoundError: no such model.
        ValueError: ``num_layers`` is set for an export.
    """
    refuse_missing_directory(model)
    modules = model_file(model, "modules.json")
    if modules is not None and num_layers is not None:
        raise ValueError(f"{model} is an export: it is measured as it is. Remove its num_layers.")
    if modules is None:
        return _packed(model, settings, num_layers)
    if as_published or not _pools_last_token(model, modules):
        return _sentence_transformer(model, settings)
    return _packed(model, settings, None, _own_limit(model))


def _packed(model: str, settings: EmbeddingSettings, num_layers: int | None, limit: int = _UNLIMITED) -> Embedder:
    """In our packed encoder."""
    prompts = QueryPrompts.of(model)
    how: dict[str, Any] = {
        "num_layers": num_layers,
        "max_tokens": min(limit, settings.max_tokens),
        "precision": settings.precision.value,
        "device": settings.device,
    }
    encoder: TextEncoder | ParallelTextEncoder
    if settings.num_processes == 1:
        encoder = TextEncoder.load(model, **how)
    else:
        encoder = ParallelTextEncoder(model, num_processes=settings.num_processes, **how)

    def encode(prompt: str, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return encoder.encode([prompt + text for text in texts], tokens_per_batch=settings.tokens_per_batch)

    def encode_queries(queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        return encode(prompts.prompt(instruction), queries)

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return encode(prompts.of_documents, documents)

    return Embedder(encode_queries, encode_documents)


def _sentence_transformer(model: str, settings: EmbeddingSettings) -> Embedder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ImportError(
            f"{model} is a Sentence-Transformers model; to load it: {_INSTALL_SENTENCE_TRANSFORMERS}."
        ) from None
    device = resolve_device(settings.device)
    bf16 = resolve_precision(settings.precision, device) is Precision.bf16
    with quiet_transformers(), reading_model(model):
        loaded: Any = SentenceTransformer(
            model,
            device=str(device),
            local_files_only=Path(model).is_dir(),
            model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32},
        )
    loaded.max_seq_length = min(loaded.max_seq_length or settings.max_tokens, settings.max_tokens)
    prompts = QueryPrompts.of(model)
    encoding = {
        "batch_size": settings.texts_per_batch,
        "normalize_embeddings": True,
        "convert_to_tensor": True,
        "show_progress_bar": False,
    }

    def encode_queries(queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        return loaded.encode_query(list(queries), prompt=prompts.prompt(instruction), **encoding).float().cpu()

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return loaded.encode_document(list(documents), **encoding).float().cpu()

    return Embedder(encode_queries, encode_documents)


def _pools_last_token(model: str, modules: Path) -> bool:
    """Whether the model is a transformer, last-token pooling, and at most a norm."""
    types = [str(module["type"]).rsplit(".", 1)[-1] for module in json.loads(modules.read_text(encoding="utf-8"))]
    pooling = model_json(model, f"{POOLING_PATH}/config.json") or {}
    last = pooling.get("pooling_mode") == LAST_TOKEN or bool(pooling.get(f"pooling_mode_{LAST_TOKEN}"))
    return last and types in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])


def _own_limit(model: str) -> int:
    """The maximum tokens of a Sentence-Transformers model, read as that library does."""
    limit = (model_json(model, "sentence_bert_config.json") or {}).get("max_seq_length")
    if limit is None:
        positions = (model_json(model, "config.json") or {}).get("max_position_embeddings", _UNLIMITED)
        limit = min(positions, (model_json(model, "tokenizer_config.json") or {}).get("model_max_length", _UNLIMITED))
    return int(limit)


def model_identity(model: str) -> str:
    """A model's identity: the digest of a directory's contents, or a hub name with its commit.

    Raises:
        FileNotFoundError: no such model.
    """
    refuse_missing_directory(model)
    if Path(model).is_dir():
        return digest(Path(model))
    config = model_file(model, "config.json")
    if config is None:
        raise FileNotFoundError(f"model {model}: no such directory, and no model of that name can be reached.")
    return f"{model}@{config.parent.name}"  # the hub's cache names a snapshot's directory by its commit
