"""Numbers of parameters and of trained parameters: the real model, built on the meta device.

No weight is read or allocated. The shapes of Qwen3's models are built in, so that a plan needs no network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qwen3emb_train.data.tokenization import refuse_missing_directory
from qwen3emb_train.model_directory import reading_model
from qwen3emb_train.models.loading import ModelConfig, keep_layers, quiet_transformers
from qwen3emb_train.models.lora import add_lora
from qwen3emb_train.models.packing import PACKED, register_packed_attention
from qwen3emb_train.models.quantization import Quantization
from qwen3emb_train.models.text_parts import text_config

# arXiv 2506.05176, Table 1, and the config.json of the published models: hidden size, intermediate size, layers,
# attention heads, rows of the embedding matrix of Qwen3-* and of Qwen3-Embedding-*, maximum positions of the latter.
_QWEN3 = {
    "0.6B": (1024, 3072, 28, 16, 151_936, 151_669, 32_768),
    "4B": (2560, 9728, 36, 32, 151_936, 151_665, 40_960),
    "8B": (4096, 12288, 36, 32, 151_936, 151_665, 40_960),
}

# 4 bits, 8 bits of scale for each block of 64, and 32 bits for each 256 of those (double quantisation).
_NO_LIMIT = 131_072  # tokens, for families without learned or trained positions
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Parameters:
    """Counts and shapes of one model.

    Attributes:
        total, trained: numbers of parameters.
        embedding: of the token embedding matrix.
        products: parameters of the layers' linear maps (without adapters): each costs 2 FLOP a token; under autocast
            each has a bf16 copy while it is used.
        adapters: LoRA's parameters.
        largest_layer: parameters of one decoder layer.
        shapes, trained_shapes: of every parameter, for sharding by rows.
        root_shapes: of those outside the layers (the embedding, the last norm).
        hidden, intermediate, layers, heads, kv_heads, head_dim: of the backbone.
        max_positions: maximum tokens of a text.
        has_query_norm: whether queries and keys are normed within heads, as in Qwen3.
        lora_rank: 0 = full training.
        product_bytes: of each parameter of the linear maps: 4 (float32), or about 0.52 in QLoRA's nf4.
        adapted: linear maps with an adapter in one layer.
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
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    has_query_norm: bool
    lora_rank: int
    adapted: int
    product_bytes: float = 4.0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, unsharded."""
        return int(4 * (self.total - self.products) + self.product_bytes * self.products)

    @property
    def query_width(self) -> int:
        """Components of all heads' queries."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim


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


def build_meta_backbone(config: ModelConfig, shape: Any) -> nn.Module:
    """The backbone and adapters of ``load_encoder``, but without storage."""
    from transformers import AutoModel

    register_packed_attention()
    with torch.device("meta"), quiet_transformers():
        kind = {"dtype": torch.float32, "trust_remote_code": config.trust_remote_code}
        try:
            backbone: nn.Module = AutoModel.from_config(shape, attn_implementation=PACKED, **kind)
        except KeyError:  # a family whose attention cannot be replaced: it is run padded
            backbone = AutoModel.from_config(shape, attn_implementation="eager", **kind)
        if config.lora.rank:
            backbone = add_lora(backbone, config.lora)
    if config.activation_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return backbone.train()


def count_parameters(backbone: nn.Module, quantization: Quantization = Quantization.none) -> Parameters:
    """Counts a (meta) backbone's parameters by their cost; ``quantization`` is that of the linear maps when loaded.

    Raises:
        ValueError: the model has no attention heads, or no list of layers.
    """
    hf_config: Any = backbone.config
    layers = _decoder_layers(backbone)
    named = dict(backbone.named_parameters())
    adapters = {name for name in named if "lora_" in name}
    matrices = [p for layer in layers for name, p in layer.named_parameters() if p.ndim == 2 and "lora_" not in name]
    heads, hidden = (getattr(hf_config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not heads or not hidden:
        raise ValueError(
            f"no plan can be made for {hf_config.model_type}, which has no attention heads: its memory and time "
            "are not known. Train a few steps instead (steps=3)."
        )
    # GPT-2 and GPT-J, OPT, Falcon; four times the width where a family does not say.
    widths = (getattr(hf_config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"))
    in_layers = {id(p) for layer in layers for p in layer.parameters()}
    return Parameters(
        total=sum(p.numel() for p in named.values()),
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        embedding=sum(p.numel() for name, p in named.items() if "embed_tokens" in name and name not in adapters),
        products=sum(p.numel() for p in matrices),
        adapters=sum(named[name].numel() for name in adapters),
        largest_layer=max(sum(p.numel() for p in layer.parameters()) for layer in layers),
        shapes=tuple(tuple(p.shape) for p in named.values()),
        trained_shapes=tuple(tuple(p.shape) for p in named.values() if p.requires_grad),
        root_shapes=tuple(tuple(p.shape) for p in named.values() if id(p) not in in_layers),
        hidden=hidden,
        intermediate=next(filter(None, widths), 4 * hidden),
        layers=len(layers),
        heads=heads,
        kv_heads=getattr(hf_config, "num_key_value_heads", None) or heads,
        head_dim=getattr(hf_config, "head_dim", None) or hidden // heads,
        max_positions=getattr(hf_config, "max_position_embeddings", None) or _NO_LIMIT,
        has_query_norm=any("q_norm" in name for name in named),
        lora_rank=max((named[name].shape[0] for name in adapters if "lora_A" in name), default=0),
        adapted=sum("lora_A" in name for name in adapters) // len(layers),
        product_bytes=4.0 if quantization is Quantization.none else _NF4_BYTES,
    )


def _decoder_layers(backbone: nn.Module) -> list[nn.Module]:
    """The list of equal blocks: the longest ModuleList."""
    lists = [list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(backbone).__name__} has no list of layers: no plan can be made for it.")
    return max(lists, key=len)
