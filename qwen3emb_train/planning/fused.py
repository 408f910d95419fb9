"""What is one kernel on a GPU and several on a CPU, whose tensors a trace is made of: torch's RMSNorm.

The operations below stand for that kernel, forwards and backwards: they have shapes and bytes, and compute nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PACKETS = (torch.ops.aten._fused_rms_norm, torch.ops.aten._fused_rms_norm.default)
_BACKWARD = (torch.ops.aten._fused_rms_norm_backward, torch.ops.aten._fused_rms_norm_backward.default)


class FusedNorms(TorchFunctionMode):
    """Inside, torch's RMSNorm is one kernel on fake tensors of any device.

    Its Python function is replaced too: where a checkpoint recomputes a layer, modes such as this one are not asked.
    """

    def __enter__(self) -> "FusedNorms":
        self._theirs = F.rms_norm
        F.rms_norm = _rms_norm  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        F.rms_norm = self._theirs

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if function in (torch.rms_norm, torch.nn.functional.rms_norm):
            weight = args[2] if len(args) > 2 else named.get("weight")
            return _Norm.apply(args[0] if args else named["input"], weight)
        if function in _PACKETS:
            return rms_norm(args[0], args[2] if len(args) > 2 else named.get("weight"))
        if function in _BACKWARD:
            gradient, rows, _, scale, weight = args[:5]
            return rms_norm_backward(gradient, rows, scale, weight)
        return function(*args, **named)


def _rms_norm(rows: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    normed: Tensor = _Norm.apply(rows, weight)
    return normed


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor | None) -> Tensor:
        result: tuple[Tensor, Tensor] = rms_norm(rows, weight)
        ctx.save_for_backward(rows, weight, result[1])
        return result[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, weight, scale = ctx.saved_tensors
        of_rows, of_weight = rms_norm_backward(gradients[0], rows, scale, weight)
        return of_rows, None if weight is None or not ctx.needs_input_grad[1] else of_weight


@torch.library.custom_op("qwen3emb_plan::rms_norm", mutates_args=())
def rms_norm(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The normed rows and each row's scale.

    Raises:
        NotImplementedError: real tensors.
    """
    raise NotImplementedError("It has shapes only.")


@rms_norm.register_fake
def _(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), rows.new_empty((*rows.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("qwen3emb_plan::rms_norm_backward", mutates_args=())
def rms_norm_backward(gradient: Tensor, rows: Tensor, scale: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of the rows and of the weight.

    Args:
        gradient: of the result.
        rows, scale, weight: as the forward pass left them.

    Raises:
        NotImplementedError: real tensors.
    """
    raise NotImplementedError("It has shapes only.")


@rms_norm_backward.register_fake
def _(gradient: Tensor, rows: Tensor, scale: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), rows.new_empty(rows.shape[-1:] if weight is None else weight.shape)
