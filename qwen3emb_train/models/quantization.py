"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): the frozen base in 4 bits, adapters in float32 on top.

bitsandbytes does the arithmetic; it is an extra (``pip install .[qlora]``), imported only when it is used.
"""

from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn


class Quantization(str, Enum):
    """Of the frozen base under LoRA: none, or 4-bit NormalFloat with double quantisation."""

    none = "none"
    nf4 = "nf4"


def quantization_settings(quantization: Quantization) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantise while loading.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    if quantization is Quantization.none:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "model.quantization=nf4 needs bitsandbytes: pip install 'qwen3emb-train[qlora]', or set it to none."
        ) from error
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": "cpu"}}


def is_quantized(layer: nn.Module) -> bool:
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def dequantized(layer: nn.Module) -> Tensor:
    """The weight that a quantised layer multiplies by, as float32 on the CPU."""
    from bitsandbytes.functional import dequantize_4bit

    layer.state_dict()  # bitsandbytes repacks weights for inference on CPUs; this restores their order
    weight: Any = layer.weight
    return dequantize_4bit(weight.data, weight.quant_state).float().cpu()
