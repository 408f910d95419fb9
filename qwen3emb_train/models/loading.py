"""From a model directory (or hub name) to an Encoder or a YesNoReranker, and back.

Weights are loaded as float32 whatever their stored type: AdamW on bf16 weights moves only some 7 % of them in a step
at lr 6e-6 (the rest is rounded away). bf16 enters through autocast and frozen products (``models.precision``) and at
export.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from qwen3emb_train.data.tokenization import refuse_missing_directory
from qwen3emb_train.distributed import is_main_process
from qwen3emb_train.model_directory import reading_model
from qwen3emb_train.models.dropout import TextKeys
from qwen3emb_train.models.exactness import settle_attention
from qwen3emb_train.models.fused import fuse
from qwen3emb_train.models.lora import LoraConfig, add_lora, bare, is_peft, use_text_dropout, with_adapters
from qwen3emb_train.models.packing import PACKED, register_packed_attention
from qwen3emb_train.models.quantization import Quantization, quantization_settings
from qwen3emb_train.models.reranker import YesNoReranker
from qwen3emb_train.models.text_model import Encoder, TextModel
from qwen3emb_train.models.text_parts import has_text_part, key_mapping, text_config
from qwen3emb_train.models.unread import (
    NotInPartsError,
    UnreadWeights,
    build_unread,
    settle_attention_unread,
    standing_in,
    stored_names,
)
from qwen3emb_train.models.weights import StoredWeights, refuse_pickled_weights

LM_HEAD = "lm_head.weight"
_Model = TypeVar("_Model", bound=TextModel)


class Attention(str, Enum):
    """``packed``: no padding (the default). ``padded``: transformers' own on padded batches, the reference."""

    packed = "packed"
    padded = "padded"


@dataclass
class ModelConfig:
    """Which backbone, and how it is run.

    Attributes:
        path: model directory or hub name (any decoder of transformers; Qwen3 first; of a vision-language model the
            language model).
        num_layers: keep only the first layers of the backbone (null = all): for small machines.
        bidirectional: every token sees its whole text. Off in the report ("LLMs with causal attention"); saved as
            ``is_causal: false`` in config.json.
        attention: how texts of different lengths share a batch. Tried on three short texts when the model is loaded;
            where packing would give other vectors, padded is used and reported.
        eos_token: the token appended to every text; null = what the tokenizer appends, else <|endoftext|>, else its EOS
            token.
        lora: train adapters instead of all weights (rank > 0).
        quantization: nf4: the frozen base in 4 bits under LoRA (QLoRA). Saved models hold the base as it was trained
            on: 4-bit values written as float32.
        activation_checkpointing: recompute layers in the backward pass (gradient caching usually makes it needless).
        revision: commit or tag on the hub; null = the newest.
        trust_remote_code: run Python that comes with the model. Off; needs a pinned 40-character revision.
    """

    path: str = "???"
    num_layers: int | None = None
    bidirectional: bool = False
    attention: Attention = Attention.packed
    eos_token: str | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: Quantization = Quantization.none
    activation_checkpointing: bool = False
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"model.num_layers is {self.num_layers}; use at least 1, or null for all layers.")
        if self.quantization is not Quantization.none and not self.lora.rank:
            raise ValueError("model.quantization needs adapters: set model.lora.rank (e.g. 32), or quantization=none.")
        if self.trust_remote_code and (self.revision is None or len(self.revision) != 40):
            raise ValueError("model.trust_remote_code=true needs model.revision pinned to a 40-character commit.")


def load_encoder(config: ModelConfig, *, unread: bool = False) -> Encoder:
    """Loads the backbone in float32 on the CPU, in training mode.

    Args:
        config: which model.
        unread: leave the weights in their files, where that can be (``models.unread``): an engine reads its part.

    Raises:
        FileNotFoundError: nothing loadable at ``config.path``.
        ValueError: weights are missing, of another shape, or not finite; ``num_layers`` exceeds the model's; the model
            cannot read several texts at once exactly (``models.exactness``).
    """
    from transformers import AutoModel

    def load(unread: bool) -> Encoder:
        model, stored = _load(AutoModel, config, unread)
        places = {} if stored is None else stored_names(model, stored)
        encoder = Encoder(*_prepared(model, config, unread))
        if stored is not None:
            encoder.unread = UnreadWeights.of(encoder, stored, places)
        return encoder.train()

    with reading_model(config.path):
        return _unread_or_whole(load, config, unread)


def load_reranker(
    config: ModelConfig, answer_ids: tuple[int, int], *, over_vocabulary: bool = False, unread: bool = False
) -> YesNoReranker:
    """Loads a causal language model (any decoder; its head may be its embedding) as ``load_encoder`` does.

    Args:
        config: which model.
        answer_ids: token ids of yes and no.
        over_vocabulary: see ``YesNoReranker``.
        unread: see ``load_encoder``.

    Raises:
        FileNotFoundError, ValueError: as ``load_encoder``; a head that is neither stored nor tied counts as missing.
    """
    from transformers import AutoModelForCausalLM

    def load(unread: bool) -> YesNoReranker:
        model, stored = _load(AutoModelForCausalLM, config, unread)
        places = {} if stored is None else stored_names(model, stored)
        lm_head = model.get_output_embeddings()
        if config.lora.rank:
            lm_head.requires_grad_(False)
        backbone, keys = _prepared(model.base_model, config, unread)
        reranker = YesNoReranker(backbone, lm_head, answer_ids, over_vocabulary=over_vocabulary, text_keys=keys)
        if stored is not None:
            reranker.unread = UnreadWeights.of(reranker, stored, places)
        return reranker.train()

    with reading_model(config.path):
        return _unread_or_whole(load, config, unread)


def _unread_or_whole(load: Callable[[bool], _Model], config: ModelConfig, unread: bool) -> _Model:
    """Tries without the weights first, where wanted; says why not, where that cannot be."""
    if unread:
        try:
            if config.quantization is not Quantization.none:
                raise NotInPartsError("model.quantization packs whole tensors")
            return load(True)
        except NotInPartsError as why:
            if is_main_process():
                print(f"{config.path}: every rank loads the whole model: {why}.", file=sys.stderr, flush=True)
    return load(False)


def _load(auto_class: Any, config: ModelConfig, unread: bool = False) -> tuple[Any, StoredWeights | None]:
    """The transformers model; where ``unread``, on the meta device, with its files."""
    from transformers import AutoConfig

    register_packed_attention()
    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    refuse_missing_directory(config.path)
    if (Path(config.path) / "adapter_config.json").exists():
        raise ValueError(f"model.path {config.path} holds a LoRA adapter, not a model: merge it into its base first.")
    refuse_pickled_weights(Path(config.path))
    try:
        hf_config = AutoConfig.from_pretrained(config.path, **source)
        mapping = {"key_mapping": key_mapping()} if has_text_part(hf_config) else {}
        hf_config = text_config(hf_config)
        keep_layers(hf_config, config)
        _set_bidirectional(hf_config, config)
        if unread:
            return build_unread(auto_class, hf_config, config.path, config.trust_remote_code)
        with quiet_transformers():
            model, info = auto_class.from_pretrained(
                config.path, config=hf_config, dtype=torch.float32, output_loading_info=True, **source,
                **quantization_settings(config.quantization), **mapping,
            )  # fmt: skip
    except OSError as error:
        raise FileNotFoundError(f"model.path {config.path}: {str(error).splitlines()[0]}") from error
    except SafetensorError as error:
        raise ValueError(
            f"model.path {config.path}: its weights cannot be read ({error}): an incomplete copy, or a "
            "git-lfs pointer. Fetch the safetensors files again (git lfs pull)."
        ) from error
    _refuse_damaged(model, info, config.path)
    return model, None


def _prepared(backbone: Any, config: ModelConfig, unread: bool = False) -> tuple[Any, TextKeys | None]:
    """The backbone set up for training, with adapters if configured, and the keys of their dropout."""
    _set_causality(backbone)
    backbone.config.use_cache = False
    # torch gives the padding token's row no gradient, but where pad == EOS that token ends every text here.
    backbone.get_input_embeddings().padding_idx = None
    want_packed = config.attention is Attention.packed
    if unread:
        trusts = config.trust_remote_code
        settle_attention_unread(backbone, config.path, want_packed=want_packed, trust_remote_code=trusts)
    else:
        settle_attention(backbone, config.path, want_packed=want_packed)
    return equip(backbone, config)


def equip(backbone: Any, config: ModelConfig) -> tuple[Any, TextKeys | None]:
    """Fused norms and rotations, activation checkpointing, adapters and their dropout, as configured.

    Also of a backbone without weights.
    """
    fuse(backbone)
    is_packed = backbone.config._attn_implementation == PACKED
    is_keyed = config.lora.rank > 0 and config.lora.dropout > 0 and is_packed
    text_keys = TextKeys() if is_keyed else None
    if config.activation_checkpointing:
        contexts = {} if text_keys is None else {"context_fn": text_keys.checkpoint_contexts}
        backbone.gradient_checkpointing_enable({"use_reentrant": False, **contexts})
    if config.lora.rank:
        with standing_in(backbone):
            backbone = add_lora(backbone, config.lora)
    if text_keys is not None:
        use_text_dropout(backbone, text_keys)
    return backbone, text_keys


def save_model(
    model: TextModel,
    directory: Path,
    dtype: torch.dtype = torch.float32,
    parameters: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes config.json and safetensors of the bare backbone, or of a reranker's causal language model; LoRA adapters
    are merged in float32 on the way.

    Not ``save_pretrained``: that empties the state dict it is given and imports deepspeed wherever it is installed.

    Args:
        model: encoder or reranker.
        directory: created if missing.
        dtype: in which weights are stored.
        parameters: the model's full parameters by name, where its own are sharded.
    """
    from huggingface_hub import save_torch_state_dict

    directory.mkdir(parents=True, exist_ok=True)
    merged = merged_state_dict(model, parameters)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in merged.items()}
    save_torch_state_dict(weights, directory, safe_serialization=True)
    config = model.config.to_dict()
    config["dtype"] = str(dtype).removeprefix("torch.")
    config["architectures"] = [_architecture(model)]
    for private in ("_name_or_path", "_attn_implementation", "quantization_config"):
        config.pop(private, None)
    type(model.config).from_dict(config).to_json_file(directory / "config.json")


def merged_state_dict(model: TextModel, parameters: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights under their saved names; each LoRA update is added to a copy of its base weight on the CPU, one layer
    after the other: on an accelerator the merged model would need the whole model's memory once more.

    Args:
        parameters: as in ``save_model``.
    """
    prefix = "backbone.base_model.model." if is_peft(model.backbone) else "backbone."
    own = model.state_dict() if parameters is None else parameters
    head = {name: tensor for name, tensor in own.items() if name == LM_HEAD and not _is_tied(model)}
    weights = {name.removeprefix(prefix): tensor for name, tensor in own.items() if name != LM_HEAD}
    if is_peft(model.backbone):
        weights = with_adapters(model.backbone, weights)
    return {f"{model.stored_prefix}{name}": tensor for name, tensor in weights.items()} | head


def loadable_name(model: TextModel, stored: str) -> str:
    """The name in ``model.state_dict()`` of a weight that ``save_model`` wrote, without adapters."""
    return stored if stored == LM_HEAD else f"backbone.{stored.removeprefix(model.stored_prefix)}"


def _is_tied(model: TextModel) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def _architecture(model: TextModel) -> str:
    """The class that config.json names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if isinstance(model, YesNoReranker):
        return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model.config.model_type])
    return type(bare(model.backbone)).__name__


def keep_layers(hf_config: Any, config: ModelConfig) -> None:
    """Reduces a transformers configuration to ``config.num_layers``.

    Raises:
        ValueError: the model has fewer layers.
    """
    available = hf_config.num_hidden_layers
    if config.num_layers is None:
        return
    if config.num_layers > available:
        raise ValueError(f"model.num_layers is {config.num_layers}, but {config.path} has only {available} layers.")
    hf_config.num_hidden_layers = config.num_layers
    if getattr(hf_config, "layer_types", None) is not None:
        hf_config.layer_types = hf_config.layer_types[: config.num_layers]


def _set_bidirectional(hf_config: Any, config: ModelConfig) -> None:
    if not config.bidirectional:
        return
    if "sliding_attention" in (getattr(hf_config, "layer_types", None) or ()):
        raise ValueError(
            "model.bidirectional=true is not defined for sliding-window layers; use a full-attention model."
        )
    hf_config.is_causal = False


def _refuse_damaged(backbone: Any, info: dict[str, Any], path: str) -> None:
    missing = [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]
    if missing:
        raise ValueError(
            f"{path}: weights missing or of another shape: {sorted(missing)[:5]}. The directory is not this model's."
        )
    for name, parameter in backbone.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"{path}: weight {name} holds NaN or infinity. Choose an earlier checkpoint.")


def _set_causality(backbone: Any) -> None:
    """Copies ``config.is_causal`` to the attention modules, which transformers leaves at True.

    Without it a bidirectional model becomes causal whenever a batch has no padding (the mask is skipped then).
    """
    is_causal = getattr(backbone.config, "is_causal", None)
    if is_causal is None:  # as the family is built: encoders and EmbeddingGemma look ahead
        return
    for module in backbone.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = bool(is_causal)


class quiet_transformers:  # noqa: N801 - reads as a statement
    """Hides transformers' table of unused weights: missing ones are errors here, dropped layers are intended."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
