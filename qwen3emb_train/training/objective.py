"""The interface of an objective, which the loop, the monitor and the validation call."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from qwen3emb_train.training.engines.engine import Engine

Metrics = dict[str, Tensor]
ScalarMetrics = dict[str, float | list[float]]


@runtime_checkable
class Objective(Protocol):
    """One step's forward and backward pass, and its diagnostics.

    Batches are of the objective's own kind (``data.batches.TrainingBatch``).
    """

    @property
    def engine(self) -> Engine:
        """Runs the model and carries gradients."""
        ...

    def prepare(self, batch: Any) -> Any:
        """The batch with what can be done for it ahead of its step, without a device; runs in another thread."""
        ...

    def forward_backward(self, batch: Any) -> Metrics:
        """Leaves gradients in the engine; returns 0-dim tensors by name, among them ``loss``: this rank's share."""
        ...

    def evaluate(self, batch: Any) -> dict[str, Tensor]:
        """Sums over this rank's queries, without any gradient; the caller has put the model into eval mode."""
        ...

    def held_out(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics from ``evaluate``'s sums, added up over batches and ranks; ``loss`` and ``mrr`` among them."""
        ...

    def diagnostics(self) -> ScalarMetrics:
        """Diagnostics of the last step, of all ranks. Collective."""
        ...

    def bad_queries(self) -> list[int]:
        """This rank's queries of the last step with something that is not finite."""
        ...

    def release(self) -> None:
        """Drops the tensors of the last step."""
        ...
