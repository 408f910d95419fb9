"""A causal language model read as its backbone: hubs store ``model.layers...`` where training stores ``layers...``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from qwen3emb_train.merging.adapters import AdaptedWeights
from qwen3emb_train.models.weights import StoredWeights

_PREFIX, _LM_HEAD = "model.", "lm_head.weight"


def is_prefixed(names: Sequence[str]) -> bool:
    """Whether these are the names of a causal language model's tensors."""
    return all(name.startswith(_PREFIX) for name in names if name != _LM_HEAD)


class BareWeights:
    """The backbone's tensors under its own names, with the interface of ``StoredWeights``; a head is left out.

    Attributes:
        directory: of the model.
        names: of the bare backbone.
    """

    def __init__(self, weights: "StoredWeights | AdaptedWeights | BareWeights") -> None:
        self._weights = weights
        self.directory: Path = weights.directory
        self.names: list[str] = sorted(name.removeprefix(_PREFIX) for name in weights.names if name != _LM_HEAD)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(f"{_PREFIX}{name}")

    def dtype(self, name: str) -> torch.dtype:
        return self._weights.dtype(f"{_PREFIX}{name}")

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """As ``StoredWeights.load``.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        return self._weights.load(f"{_PREFIX}{name}")
