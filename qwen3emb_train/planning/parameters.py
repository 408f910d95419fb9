"""Numbers of parameters and of trained parameters: the real model, built on the meta device.

No weight is read or allocated. The shapes of Qwen3's models are built in, so that a plan needs no network.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qwen3emb_train.data.tokenization import refuse_missing_directory
from qwen3emb_train.model_directory import reading_model
from qwen3emb_train.models.dropout import TextKeys
from qwen3emb_train.models.loading import Attention, ModelConfig, equip, keep_layers, quiet_transformers
from qwen3emb_train.models.packing import PACKED, register_packed_attention
from qwen3emb_train.models.quantization import Quantization
from qwen3emb_train.models.text_model import Encoder, TextModel
from qwen3emb_train.models.text_parts import text_config

# arXiv 2506.05176, Table 1, and the config.json of the published models: hidden size, intermediate size, layers,
# attention heads, rows of the embedding matrix of Qwen3-* and of Qwen3-Embedding-*, maximum positions of the latter.
_QWEN3 = {
    "0.6B": (1024, 3072, 28, 16, 151_936, 151_669, 32_768),
    "4B": (2560, 9728, 36, 32, 151_936, 151_665, 40_960),
    "8B": (4096, 12288, 36, 32, 151_936, 151_665, 40_960),
}

# 4 bits, 8 bits of scale for each block of 64, and 32 bits for each 256 of those (double quantisation).
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Parameters:
    """Counts and shapes of one model.

    Attributes:
        total, trained: numbers of parameters.
        embedding: of the token embedding matrix.
        products: parameters of the layers' linear maps (without adapters): each costs 2 FLOP a token.
        adapters: LoRA's parameters.
        largest_layer: parameters of one decoder layer.
        shapes, trained_shapes: of every parameter, for sharding by rows.
        root_shapes: of those outside the layers (the embedding, the last norm).
        weight_bytes: of all weights, unsharded, in the dtypes in which they stay on a device.
        hidden, layers: of the backbone.
        max_positions: maximum tokens of a text; None: the family has no limit.
        lora_rank: 0 = full training.
    """

    total: int
    trained: int
    embedding: int
    products: int
    adapters: int
    largest_layer: int
    shapes: tuple[tuple[int, ...], ...]
    trained_shapes: tuple[tuple[int, ...], ...]
    root_shapes: tuple[tuple[int, ...], ...]
    weight_bytes: int
    hidden: int
    layers: int
    max_positions: int | None
    lora_rank: int

    @property
    def bytes_per_weight(self) -> float:
        """On average: 4 in full training, less where frozen weights are kept in fewer bytes."""
        return self.weight_bytes / self.total


def sharded_elements(shapes: Sequence[tuple[int, ...]], ranks: int) -> int:
    """Elements on the first of ``ranks`` when every parameter is sharded by rows (FSDP2; the last ranks have less)."""
    return sum(math.ceil(shape[0] / ranks) * math.prod(shape[1:]) for shape in shapes)


def load_model_shape(config: ModelConfig) -> Any:
    """The transformers configuration: of a Qwen3 model known by name, a directory, or the hub.

    Raises:
        FileNotFoundError: nothing of that name.
    """
    from transformers import AutoConfig

    known = _known(config.path)
    if known is None:
        refuse_missing_directory(config.path)
        try:
            with reading_model(config.path):
                known = AutoConfig.from_pretrained(
                    config.path, revision=config.revision, trust_remote_code=config.trust_remote_code
                )
        except OSError as error:
            raise FileNotFoundError(
                f"model.path {config.path}: no configuration can be read from there ({str(error).splitlines()[0]}). "
                f"Give a model directory; known without one: {', '.join(known_names())}."
            ) from error
        known = text_config(known)
    keep_layers(known, config)
    return known


def known_names() -> list[str]:
    """Hub names whose shapes are built in."""
    return [f"Qwen/Qwen3-{infix}{size}" for size in _QWEN3 for infix in ("", "Embedding-")]


def _known(path: str) -> Any | None:
    from transformers import Qwen3Config

    name = path.removesuffix("-Base")
    if name not in known_names():
        return None
    hidden, intermediate, layers, heads, rows, embedding_rows, max_positions = _QWEN3[name.rsplit("-", 1)[1]]
    is_embedding = "Embedding" in name
    return Qwen3Config(
        vocab_size=embedding_rows if is_embedding else rows,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=max_positions if is_embedding else 40_960,
    )


def build_meta_model(config: ModelConfig, shape: Any) -> Encoder:
    """The encoder of ``load_encoder``, but without storage. Whether packing is exact can only be tried with weights."""
    from transformers import AutoModel

    register_packed_attention()
    native = deepcopy(shape)  # transformers sets the attention in what it is given
    trusts, kind = config.trust_remote_code, {"dtype": torch.float32}
    chosen = {"attn_implementation": PACKED} if config.attention is Attention.packed else {}
    with torch.device("meta"), quiet_transformers():
        try:
            backbone = AutoModel.from_config(shape, trust_remote_code=trusts, **kind, **chosen)
        except (KeyError, ValueError):  # a family whose attention cannot be replaced: it is run padded
            if not chosen:
                raise
            backbone = AutoModel.from_config(native, trust_remote_code=trusts, **kind)
        backbone, text_keys = _equipped(backbone, config)
    return Encoder(backbone, text_keys).train()


def _equipped(backbone: Any, config: ModelConfig) -> tuple[Any, TextKeys | None]:
    backbone.config.use_cache = False
    if config.bidirectional:
        for module in backbone.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
    equipped, text_keys = equip(backbone, config)
    if config.quantization is not Quantization.none:  # bitsandbytes multiplies by bf16 weights, made in each pass
        for _, weight in _frozen_matrices(equipped):
            weight.data = weight.data.to(torch.bfloat16)
    return equipped, text_keys


def count_parameters(model: TextModel, quantization: Quantization = Quantization.none) -> Parameters:
    """Counts a (meta) model's parameters by their cost; ``quantization`` is that of the linear maps when loaded.

    Raises:
        ValueError: the model has no list of layers.
    """
    hf_config: Any = model.config
    embedding = model.backbone.get_input_embeddings().weight
    layers = list(list_of_layers(model))
    named = dict(model.named_parameters())
    adapters = {name for name in named if "lora_" in name}
    # Three dimensions: a layer's experts, all in one parameter.
    matrices = [p for layer in layers for name, p in layer.named_parameters() if p.ndim > 1 and "lora_" not in name]
    in_layers = {id(p) for layer in layers for p in layer.parameters()}
    narrow = {name for name, _ in _frozen_matrices(model)} if quantization is not Quantization.none else set()
    return Parameters(
        total=sum(p.numel() for p in named.values()),
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        embedding=embedding.numel(),
        products=sum(p.numel() for p in matrices),
        adapters=sum(named[name].numel() for name in adapters),
        largest_layer=max(sum(p.numel() for p in layer.parameters()) for layer in layers),
        shapes=tuple(tuple(p.shape) for p in named.values()),
        trained_shapes=tuple(tuple(p.shape) for p in named.values() if p.requires_grad),
        root_shapes=tuple(tuple(p.shape) for p in named.values() if id(p) not in in_layers),
        weight_bytes=round(
            sum(p.numel() * (_NF4_BYTES if name in narrow else p.element_size()) for name, p in named.items())
        ),
        hidden=getattr(hf_config, "hidden_size", None) or embedding.shape[1],
        layers=len(layers),
        max_positions=getattr(hf_config, "max_position_embeddings", None),
        lora_rank=max((named[name].shape[0] for name in adapters if "lora_A" in name), default=0),
    )


def _frozen_matrices(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What quantisation reduces: the base weights under adapters."""
    return [(name, p) for name, p in module.named_parameters() if name.endswith("base_layer.weight")]


def list_of_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a decoder's layers: the longest of the lists that are in no other.

    Raises:
        ValueError: there is none.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [module for name, module in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        raise ValueError(f"{type(model).__name__} has no list of layers: no plan can be made for it.")
    return max(outer, key=len)
