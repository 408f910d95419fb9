"""A family's own RMS norms and rotations replaced by those of ``models.precision``, where they compute the same.

transformers' norms are five or six element-wise kernels, round twice, and give float32 back under autocast. Which
module is such a norm is found by trying: it is called once on drawn numbers, with a drawn weight. Rotations likewise.
"""

import copy
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from qwen3emb_train.models.precision import RMSNorm, rotation_under, round_to_products

_EPS_NAMES = ("variance_epsilon", "eps")
_ROTATION = "apply_rotary_pos_emb"
_ROWS = 3
_TOLERANCE = 1e-5  # relative, of float32


def fuse(backbone: nn.Module) -> int:
    """Lets norms and rotations be few kernels, and the embedding round to the products' dtype, in place.

    Weights may be on the meta device.

    Returns:
        How many norms were replaced. A norm or rotation of another kind stays as it is.
    """
    backbone.get_input_embeddings().register_forward_hook(round_to_products)  # type: ignore[operator]
    found = {name: fused for name, module in backbone.named_modules() if (fused := _fused(module)) is not None}
    for name, fused in found.items():
        backbone.set_submodule(name, fused)
    for module in backbone.modules():
        _rotate_by_ours(module)
    return len(found)


def _fused(module: nn.Module) -> RMSNorm | None:
    if "RMSNorm" not in type(module).__name__ or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    weight, eps = module.weight, next((e for n in _EPS_NAMES if isinstance(e := getattr(module, n, None), float)), None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1 or eps is None:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # a gate beside the states
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    states = torch.randn(_ROWS, len(weight), generator=generator, device="cpu")
    probe = copy.copy(module)  # shares nothing that is changed below
    drawn = nn.Parameter(torch.randn(len(weight), generator=generator, device="cpu"))
    probe._parameters = {"weight": drawn}
    with torch.no_grad():
        try:
            expected = probe(states)
        except Exception:  # whatever a foreign module raises: it wants other arguments, and is no such norm
            return None
        for offset in (0.0, 1.0):
            if _equal(RMSNorm(drawn, eps, offset)(states), expected):
                return RMSNorm(weight, eps, offset)
    return None


def _rotate_by_ours(module: nn.Module) -> None:
    """Gives an attention module a forward that calls our rotation. The family's function stays as it is: it is global,
    and other models of the process call it.
    """
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
        return
    theirs = forward.__globals__.get(_ROTATION)
    if not callable(theirs) or not _is_our_rotation(theirs):
        return
    ours = FunctionType(
        forward.__code__, _known_to(forward, theirs), forward.__name__, forward.__defaults__, forward.__closure__
    )
    ours.__kwdefaults__ = forward.__kwdefaults__
    module.forward = MethodType(ours, module)


def _known_to(forward: FunctionType, theirs: Callable[..., Any]) -> dict[str, Any]:
    """The globals of a forward with our rotation among them: those of a module, where torch.compile looks names up."""
    name = f"{__name__}.{forward.__module__}"
    if name not in sys.modules:
        own = ModuleType(name)
        vars(own).update({**forward.__globals__, _ROTATION: rotation_under(theirs), "__name__": name})
        sys.modules[name] = own
    return vars(sys.modules[name])


def _is_our_rotation(theirs: Callable[..., Any]) -> bool:
    generator = torch.Generator("cpu").manual_seed(0)
    q, k = (torch.randn(2, heads, _ROWS, 8, generator=generator, device="cpu") for heads in (4, 2))
    cos, sin = (torch.randn(2, _ROWS, 8, generator=generator, device="cpu") for _ in range(2))
    try:
        expected = theirs(q, k, cos, sin)
    except Exception:  # as above
        return False
    found = rotation_under(theirs)(q, k, cos, sin)
    return len(expected) == 2 and all(_equal(ours, their) for ours, their in zip(found, expected, strict=True))


def _equal(given: torch.Tensor, expected: Any) -> bool:
    is_alike = isinstance(expected, torch.Tensor) and given.shape == expected.shape
    return is_alike and torch.allclose(given, expected.to(given.dtype), rtol=_TOLERANCE, atol=_TOLERANCE)
