"""The interface of an engine, and the simplest one: a single process."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.precision import Precision, autocast
from qwen3emb_train.models.text_model import TextModel

# (key, first row, number of rows) -> those rows of the stored whole tensor
ReadRows = Callable[[str, int, int], Tensor]


@dataclass(frozen=True, eq=False)
class Piece:
    """The part of a named tensor that this rank holds, as rows of the whole.

    Attributes:
        rows: the local rows; all of them where nothing is sharded.
        first_row: where they begin in the whole.
        shape: of the whole.
    """

    rows: Tensor
    first_row: int
    shape: tuple[int, ...]


class Engine(ABC):
    """Runs forward and backward passes of one step and applies one update.

    A step is: ``forward`` for every chunk, ``backward`` for every chunk, ``finish_backward`` once, then ``update`` or
    ``discard``. Exactly the backward pass with ``last=True`` exchanges gradients between ranks, and the mean over ranks
    is what they exchange.

    Attributes:
        name: for the log.
        model: the module; its parameters may be shards.
        optimizer: AdamW over them.
        device: where it computes.
        lockstep: passes are collectives (weights gathered, gradients reduced), so all ranks must make equally many.
        has_partial_gradients: ``named_gradients`` gives this rank's part of each; squares add up over ranks.

    Args:
        model, optimizer, device: as above.
        precision: of the matrix products; resolved.
    """

    name: str = "single"
    lockstep: bool = False
    has_partial_gradients: bool = False

    def __init__(
        self, model: TextModel, optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device
    ) -> None:
        self.model, self.optimizer, self.precision, self.device = model, optimizer, precision, device

    @abstractmethod
    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Float[Tensor, "texts dim"]:
        """Vectors of a chunk; ``last``: its backward pass will be the one that exchanges gradients."""

    @abstractmethod
    def backward(self, scalar: Tensor, *, last: bool = False) -> None:
        """Back-propagates into the parameters' gradients."""

    @abstractmethod
    def finish_backward(self, max_grad_norm: float | None) -> bool:
        """After the last backward pass: clips, and returns whether this rank's gradients are finite."""

    @abstractmethod
    def update(self, lr: float) -> float:
        """Applies the update and clears the gradients; returns their norm before clipping."""

    @abstractmethod
    def discard(self) -> None:
        """Clears the gradients without an update."""

    @abstractmethod
    def gather_parameters(self) -> dict[str, Tensor]:
        """All parameters whole on the main process (an empty mapping elsewhere); every rank must call it."""

    @abstractmethod
    def optimizer_pieces(self) -> dict[str, Piece]:
        """The optimizer's tensors under ``<parameter name>/<kind>``: this rank's rows, unless another rank has them."""

    @abstractmethod
    def load_optimizer(self, read: ReadRows, names: Mapping[str, tuple[int, ...]]) -> None:
        """Puts back what ``optimizer_pieces`` gave, perhaps on other ranks.

        Args:
            read: gives rows of the stored tensors.
            names: the stored keys and the whole shapes.
        """

    def weight_parts(self) -> Iterator[tuple[str, Tensor, int]]:
        """This rank's part of each weight where it is laid out by parts: name, flat view, its first element."""
        yield from ()

    def named_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's gradients by parameter name, between ``finish_backward`` and ``update``; perhaps none."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield name, parameter.grad

    @property
    def optimizer_names(self) -> set[str]:
        """What this rank needs state of: the part of ``optimizer_pieces``' keys before the last slash."""
        return {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    @property
    def optimizer_layout(self) -> str:
        """An optimizer state can be read back by an engine of the same layout, at any number of ranks."""
        return "rows"

    def seed_dropout(self, seed: int) -> None:
        """Masks of the coming step, where dropout is keyed by text (``models.dropout``)."""
        if self.model.text_keys is not None:
            self.model.text_keys.seed = seed

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


class WholeWeightsEngine(Engine):
    """Base of the engines where every rank holds all weights, gradients and moments.

    Args:
        model: on the device.
        optimizer: AdamW over its parameters.
        precision: of the matrix products; resolved.
        device: where it computes.
    """

    def __init__(
        self, model: TextModel, optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device
    ) -> None:
        super().__init__(model, optimizer, precision, device)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradient_norm = math.nan

    def finish_backward(self, max_grad_norm: float | None) -> bool:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self._gradient_norm = float(norm)
        is_finite = math.isfinite(self._gradient_norm)
        if is_finite and max_grad_norm is not None:  # else a NaN would spread, and hide where it came from
            torch.nn.utils.clip_grads_with_norm_(self._parameters, max_grad_norm, norm)
        return is_finite

    def update(self, lr: float) -> float:
        self.set_lr(lr)
        self.optimizer.step()
        self.discard()
        return self._gradient_norm

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gather_parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def optimizer_pieces(self) -> dict[str, Piece]:
        return {
            f"{name}/{kind}": Piece(value.detach(), 0, tuple(value.shape))
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_optimizer(self, read: ReadRows, names: Mapping[str, tuple[int, ...]]) -> None:
        parameters = dict(self.model.named_parameters())
        for key, shape in names.items():
            name, kind = key.rsplit("/", 1)
            parameter = parameters[name]
            value = read(key, 0, shape[0] if shape else 1)
            # torch keeps the step counter of a fused optimizer beside the parameter, like its moments.
            self.optimizer.state[parameter][kind] = value.to(parameter.device)


class SingleEngine(WholeWeightsEngine):
    """One process: nothing to exchange."""

    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Float[Tensor, "texts dim"]:
        # The context is entered for each chunk: autocast remembers weights it has cast, and one remembered from a pass
        # without graph would cut the gradient of the next.
        with autocast(self.precision, self.device):
            vectors: Tensor = self.model(tokens)
        return vectors

    def backward(self, scalar: Tensor, *, last: bool = False) -> None:
        scalar.backward()
