"""The kernels of a pass of real modules on fake tensors, and the memory in use after each: nothing is computed.

A kernel is an operation below autograd and autocast that moves or makes numbers; views and allocations are none. Its
FLOP are those of its products, its bytes what it reads and writes at least once. Memory in use is that of the tensors
made since the recorder began and not yet freed: autograd's saved tensors, autocast's copies of weights, temporaries.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

_ALLOCATIONS = ("empty", "new_empty", "lift_fresh", "_unsafe_view", "is_same_size", "_local_scalar_dense")
_LOOKUPS = ("embedding", "index", "index_select", "gather")  # they read as much as they write, not the whole table


class Unit(str, Enum):
    """What limits a kernel, besides memory."""

    product = "product"
    attention = "attention"
    other = "other"


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: of the operation.
        unit: which rate applies.
        is_half: bf16 or fp16 numbers are multiplied.
        flop, bytes: counted.
        in_use: bytes of memory after it, above the beginning of its stretch.
    """

    name: str
    unit: Unit
    is_half: bool
    flop: float
    bytes: float
    in_use: int


@dataclass
class Stretch:
    """A part of a pass, such as one layer.

    Attributes:
        kernels: in order.
        change: bytes in use at its end, less those at its beginning.
    """

    kernels: list[Kernel] = field(default_factory=list)
    change: int = 0


class Recorder(TorchDispatchMode):
    """Collects kernels in stretches.

    Args:
        own: tensors that exist beforehand (weights, gradients): they are not counted as memory.
        keys_per_query: how many keys a token attends to on average, inside a varlen kernel.
    """

    def __init__(self, own: Iterable[Tensor], keys_per_query: float) -> None:
        super().__init__()
        self.stretches: list[Stretch] = []
        self._keys_per_query = keys_per_query
        self._own = list(own)  # kept alive, so that no other storage gets an address of theirs
        self._own_storages = {tensor.untyped_storage()._cdata for tensor in self._own}
        self._alive: dict[int, Any] = {}
        self._in_use = self._at_beginning = 0
        self._begins = False

    def begin(self) -> None:
        """A stretch ends here, and the next one begins."""
        self._begins = False
        if self.stretches:
            self.stretches[-1].change = self._in_use - self._at_beginning
        self._at_beginning = self._in_use
        self.stretches.append(Stretch())

    def begin_at_next(self) -> None:
        """The next operation begins a stretch: until then a module's caller still holds what it gave the module."""
        self._begins = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._begins:
            self.begin()
        result = function(*args, **(kwargs or {}))
        made = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        for tensor in made:
            self._count(tensor)
        name = function._schema.name.split("::")[1]
        if not _is_free(function, name):
            given = [value for value in tree_flatten((args, kwargs or {}))[0] if isinstance(value, Tensor)]
            self.stretches[-1].kernels.append(self._kernel(function, name, args, kwargs or {}, given, made))
        return result

    def _kernel(
        self, function: Any, name: str, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]
    ) -> Kernel:
        written = sum(map(_size, made))
        moved = 2 * written if name in _LOOKUPS else written + sum(map(_size, given))
        unit, flop = Unit.other, 0.0
        if "varlen_attn" in name or "scaled_dot_product" in name:
            unit, flop = Unit.attention, self._attention_flop(name, args, kwargs)
        elif name == "_grouped_mm":
            unit, flop = Unit.product, _grouped_flop(given, made)
        elif (formula := flop_registry.get(function._overloadpacket)) is not None:
            result = made[0] if len(made) == 1 else made
            unit, flop = Unit.product, float(formula(*args, **kwargs, out_val=result))
        is_half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in given)
        return Kernel(name, unit, is_half, flop, float(moved), self._in_use - self._at_beginning)

    def _attention_flop(self, name: str, args: Any, kwargs: Any) -> float:
        """Two products forward, five backward (the scores are made again)."""
        is_backward = "backward" in name
        products = 5 if is_backward else 2
        query, key = args[1:3] if is_backward else args[:2]
        if "varlen_attn" in name:
            tokens, heads, dim = query.shape
            return products * 2.0 * tokens * heads * dim * self._keys_per_query
        texts, heads, rows, dim = query.shape
        is_causal = kwargs.get("is_causal", any(value is True for value in args))
        return products * 2.0 * texts * heads * rows * dim * key.shape[2] * (0.5 if is_causal else 1.0)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._own_storages or key in self._alive:
            return
        size = storage.nbytes()
        self._in_use += size

        def freed(_: object) -> None:
            self._in_use -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)


def _is_free(function: Any, name: str) -> bool:
    """Whether an operation launches no kernel."""
    if function.namespace == "prim" or name.startswith(_ALLOCATIONS):
        return True
    returns = function._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _size(tensor: Tensor) -> int:
    """Bytes; what is expanded is read once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else 1
    return count * tensor.element_size()


def _grouped_flop(given: list[Tensor], made: list[Tensor]) -> float:
    """Each row meets one expert's matrix; the gradient of the matrices has one product for each row."""
    rows = given[0].shape[1] if made[0].ndim == 3 else given[0].shape[0]
    return 2.0 * rows * made[0].shape[-1] * (made[0].shape[-2] if made[0].ndim == 3 else given[0].shape[1])
