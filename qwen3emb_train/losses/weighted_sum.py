"""A loss and what is added to it: a distillation, a regulariser."""

import math
from dataclasses import dataclass

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.representations import Representations


@dataclass
class WeightedSum(EmbeddingLoss):
    """``main`` + the sum of weight * addition. Exact over ranks where its parts are.

    Attributes:
        main: counts once, and its metrics keep their names.
        additions: weight and loss by name; their metrics get the name as prefix.

    Raises:
        ValueError: a weight is not positive.
    """

    main: EmbeddingLoss
    additions: dict[str, tuple[float, EmbeddingLoss]]

    def __post_init__(self) -> None:
        for name, (weight, _) in self.additions.items():
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"The weight of {name} is {weight}; it must be positive. Leave out what weighs nothing."
                )

    @property
    def needs_columns(self) -> bool:
        return any(part.needs_columns for part in self._parts())

    @property
    def needs_negative_columns(self) -> bool:
        return any(part.needs_negative_columns for part in self._parts())

    def _parts(self) -> list[EmbeddingLoss]:
        return [self.main, *(loss for _, loss in self.additions.values())]

    def __call__(
        self, rows: Representations, columns: Representations | None = None, first_query: int = 0
    ) -> LossOutput:
        """The sum. Metrics: those of the parts, and ``main_loss`` and ``{name}_loss``, each before its weight."""
        output = self.main(rows, columns, first_query)
        total, metrics = output.loss, output.metrics | {"main_loss": output.loss.detach()}
        for name, (weight, loss) in self.additions.items():
            output = loss(rows, columns, first_query)
            total = total + weight * output.loss
            metrics[f"{name}_loss"] = output.loss.detach()
            metrics |= {f"{name}_{key}": value for key, value in output.metrics.items()}
        return LossOutput(total, metrics)
