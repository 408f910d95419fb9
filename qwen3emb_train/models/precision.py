"""In which precision products, norms and rotations run. Trained weights are float32 in every case.

Under bf16 what flows between layers is bf16 on every engine: embeddings are rounded as they are looked up, products and
norms round their results once. A float32 stream between bf16 products would cost more time than the products: each norm
and each sum would read and write it, and each product would cast it again.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Precision(str, Enum):
    """``auto``: bf16 where the hardware multiplies it faster than float32 (CUDA, CPUs with AMX), else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def resolve_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Replaces ``auto``.

    On a CPU with AMX tiles bf16 products are about four times as fast as float32's (measured); on one without, bf16 is
    emulated and slower.
    """
    if precision is not Precision.auto:
        return precision
    if device.type == "cuda":
        return Precision.bf16 if torch.cuda.is_bf16_supported() else Precision.fp32
    has_amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return Precision.bf16 if has_amx else Precision.fp32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context in which an encoder runs; ``precision`` must be resolved."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)


def dtype_of_products(states: Tensor) -> torch.dtype:
    """The dtype that autocast would choose for a product with ``states``; their own without it.

    Autocast does not cover attention kernels, keeps norms in float32, and would cast a grid's empty cells too.
    """
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if _autocasts(kind) else states.dtype


def _autocasts(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def round_to_products(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    """A forward hook of the embedding: what the layers add to is as wide as their products.

    Args:
        module, arguments: not used.
        output: looked-up rows.
    """
    return output.to(dtype_of_products(output))


def round_frozen_products(model: nn.Module) -> None:
    """Keeps frozen linear maps in bf16, in place: autocast would round them so for each product, from twice the memory.

    Loses nothing where a model was published in bf16. Call it where products run in bf16, with the final weights.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                if parameter.dtype == torch.float32 and not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)


class RMSNorm(nn.Module):
    """Root mean square norm: float32 inside (or wider), its result rounded once to the products' dtype.

    One kernel on GPUs. Stands in for a family's own module (``models.norms``) under the same parameter name.

    Args:
        weight: of the module that it replaces.
        eps: added to the mean square.
        offset: added to the weight: 1 where a family stores it so (Gemma).
    """

    def __init__(self, weight: nn.Parameter, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = weight, eps, offset

    def forward(self, states: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        dtype, kind = dtype_of_products(states), states.device.type
        weight = self.weight + self.offset if self.offset else self.weight
        if not _autocasts(kind):
            return F.rms_norm(states, weight.shape, weight.to(dtype), self.eps)
        with torch.autocast(kind, enabled=False):  # autocast would give float32 back
            return F.rms_norm(states.to(dtype), weight.shape, weight.to(dtype), self.eps)


class _Rotation(torch.autograd.Function):
    """``states * cos + rotate_half(states) * sin``: three kernels each way, where autograd would make a dozen."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        (low, high), half = states.chunk(2, -1), sin.shape[-1] // 2
        rotated = states * cos
        rotated[..., :half].addcmul_(high, sin[..., :half], value=-1)
        rotated[..., half:].addcmul_(low, sin[..., half:])
        return rotated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (low, high), half = gradients[0].chunk(2, -1), sin.shape[-1] // 2
        back = gradients[0] * cos
        back[..., :half].addcmul_(high, sin[..., half:])
        back[..., half:].addcmul_(low, sin[..., :half], value=-1)
        return back, None, None


def rotate(
    states: Float[Tensor, "texts heads tokens dim"],
    cos: Float[Tensor, "#texts 1 tokens dim"],
    sin: Float[Tensor, "#texts 1 tokens dim"],
) -> Float[Tensor, "texts heads tokens dim"]:
    """Rotary position embedding of queries or keys in their own dtype, halves of a head paired.

    Args:
        states: to be rotated; the angles carry no gradient.
        cos, sin: of each position's angles, in the dtype of ``states``.
    """
    rotated: Tensor = _Rotation.apply(states, cos, sin)
    return rotated


def rotation_under(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Our rotation under the signature of transformers; a family's own for what ours was not tried on.

    Args:
        theirs: the family's function: queries, keys, cosines, sines.
    """

    def rotate_both(q: Any, k: Any, cos: Any, sin: Any, *others: Any, **named: Any) -> Any:
        is_tried = not others and not named and cos.shape[-1] == q.shape[-1] and cos.dtype == q.dtype == k.dtype
        if not is_tried or cos.requires_grad:
            return theirs(q, k, cos, sin, *others, **named)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    return rotate_both


@contextmanager
def full_float32_products() -> Iterator[None]:
    """CUDA's float32 products in float32, not TF32, whatever the process or its environment chose.

    TF32 has 10 bits of mantissa: a cosine is rounded to about 0.0005, which is 0.025 at temperature 0.02. The switch is
    the process's, so it holds for backward passes in autograd's threads too.
    """
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
