"""The dtype in which the matrix products really run, observed in one forward pass."""

import torch
from torch import nn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.engine import Engine

_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp32: torch.float32}


def require_products(engine: Engine) -> None:
    """Encodes a text of two tokens and checks the dtypes that the linear layers return. Collective.

    Raises:
        ValueError: a layer computes in another dtype than the engine's precision.
    """
    expected, seen = _DTYPES[engine.precision], dict[str, torch.dtype]()

    def observe(name: str, output: torch.Tensor) -> None:
        seen[name] = output.dtype

    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: observe(name, output))
        for name, module in engine.model.backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            engine.forward(PackedTokens.from_lists([[0, 0]]).to(engine.device))
    finally:
        for hook in hooks:
            hook.remove()
        if callable(reshard := getattr(engine.model, "reshard", None)):
            reshard()  # FSDP2 leaves the root's weights whole after a pass without backward
    if wrong := {name: dtype for name, dtype in seen.items() if dtype != expected}:
        name, dtype = next(iter(wrong.items()))
        raise ValueError(
            f"precision={engine.precision.value}, but {len(wrong)} of {len(seen)} linear layers give {dtype} under "
            f"{engine.name} on {engine.device.type}, {name} for one. Launch with another engine, or set precision to "
            "what it does."
        )
