"""One face for every kind of embedding model: our model directories, exports, any Sentence-Transformers model.

An export is loaded exactly as a user loads it, so that what is measured is what was published. Whoever only wants its
vectors fast (mining, ``embed``) may have it through our packed encoder, which gives the same ones.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, query_prompt
from qwen3emb_train.data.tokenization import refuse_missing_directory
from qwen3emb_train.index.inference import ParallelTextEncoder, TextEncoder
from qwen3emb_train.lineage import digest
from qwen3emb_train.models.loading import quiet_transformers
from qwen3emb_train.models.precision import Precision, resolve_device, resolve_precision

_INSTALL_SENTENCE_TRANSFORMERS = "pip install 'qwen3emb-train[mine]' (sentence-transformers)"
_UNLIMITED = 2**30


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors.

    Attributes:
        max_tokens: longest text; a Sentence-Transformers model's own limit holds where it is lower.
        precision: of the matrix products ("auto": bf16 where the hardware multiplies it faster).
        tokens_per_batch: tokens encoded at once by our encoder.
        texts_per_batch: texts encoded at once by Sentence-Transformers.
        device: "auto" is CUDA where there is one, else the CPU.
        num_processes: of our encoder: on a CPU, or one for each GPU. Sentence-Transformers' models have one.
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
        encode_documents: takes the documents; they carry no instruction.
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
        num_layers: use only the first layers; not for an export, which is measured as it was published.
        as_published: False: a Sentence-Transformers model that pools on its last token goes through our packed encoder.
    """
    refuse_missing_directory(model)
    modules = _file_of(model, "modules.json")
    if modules is not None and num_layers is not None:
        raise ValueError(f"{model} is an export: it is measured as it is. Remove its num_layers.")
    if modules is None:
        return _packed(model, settings, num_layers, {"query": query_prompt(DEFAULT_INSTRUCTION)})
    if as_published or not _pools_last_token(model, modules):
        return _sentence_transformer(model, settings)
    prompts = _json_of(model, "config_sentence_transformers.json").get("prompts") or {}
    return _packed(model, settings, None, prompts, _own_limit(model))


def _packed(
    model: str, settings: EmbeddingSettings, num_layers: int | None, prompts: dict[str, str], limit: int = _UNLIMITED
) -> Embedder:
    """Through our encoder."""
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
        return encode(_prompt(prompts, instruction), queries)

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return encode(prompts.get("document") or "", documents)

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
    with quiet_transformers():
        loaded: Any = SentenceTransformer(
            model,
            device=str(device),
            local_files_only=Path(model).is_dir(),
            model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32},
        )
    loaded.max_seq_length = min(loaded.max_seq_length or settings.max_tokens, settings.max_tokens)
    prompts = loaded.prompts or {}
    encoding = {
        "batch_size": settings.texts_per_batch,
        "normalize_embeddings": True,
        "convert_to_tensor": True,
        "show_progress_bar": False,
    }

    def encode_queries(queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        return loaded.encode_query(list(queries), prompt=_prompt(prompts, instruction), **encoding).float().cpu()

    def encode_documents(documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return loaded.encode_document(list(documents), **encoding).float().cpu()

    return Embedder(encode_queries, encode_documents)


def _prompt(prompts: dict[str, str], instruction: str | None) -> str:
    """What stands before a query.

    A model without a query prompt was not trained with instructions: giving it one would only mislead it.
    """
    own = prompts.get("query") or ""
    if instruction is None:
        return own
    return query_prompt(instruction) if own and instruction else ""


def _pools_last_token(model: str, modules: Path) -> bool:
    """Whether the model is a transformer, last-token pooling, and at most a norm."""
    types = [str(module["type"]).rsplit(".", 1)[-1] for module in json.loads(modules.read_text(encoding="utf-8"))]
    pooling = _json_of(model, "1_Pooling/config.json")
    last = pooling.get("pooling_mode") == "lasttoken" or bool(pooling.get("pooling_mode_lasttoken"))
    return last and types in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])


def _own_limit(model: str) -> int:
    """The longest text of a Sentence-Transformers model, where that library looks for it."""
    limit = _json_of(model, "sentence_bert_config.json").get("max_seq_length")
    if limit is None:
        positions = _json_of(model, "config.json").get("max_position_embeddings", _UNLIMITED)
        limit = min(positions, _json_of(model, "tokenizer_config.json").get("model_max_length", _UNLIMITED))
    return int(limit)


def _json_of(model: str, name: str) -> dict[str, Any]:
    path = _file_of(model, name)
    content: dict[str, Any] = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    return content


def _file_of(model: str, name: str) -> Path | None:
    """A file of a model directory, or of a hub model (downloaded where the hub is in reach); None if it has none."""
    if Path(model).is_dir():
        return path if (path := Path(model) / name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def model_identity(model: str) -> str:
    """What tells one model from another: the digest of a directory's contents, or a hub name with its commit."""
    refuse_missing_directory(model)
    if Path(model).is_dir():
        return digest(Path(model))
    config = _file_of(model, "config.json")
    if config is None:
        raise FileNotFoundError(f"model {model}: no such directory, and no model of that name in reach.")
    return f"{model}@{config.parent.name}"  # the hub's cache names a snapshot's directory by its commit


def takes_instructions(model: str) -> bool:
    """A Sentence-Transformers model without a query prompt was not trained with instructions; ours are."""
    if not (Path(model) / "modules.json").is_file():
        return True
    settings = Path(model) / "config_sentence_transformers.json"
    prompts = json.loads(settings.read_text(encoding="utf-8")).get("prompts") if settings.is_file() else None
    return bool((prompts or {}).get("query"))
