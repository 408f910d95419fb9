"""A loss and additional terms: distillation, a regulariser."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings


@dataclass
class WeightedSum(EmbeddingLoss):
    """``main`` + the sum of weight * addition. Exact over ranks if its parts are.

    Attributes:
        main: has weight 1, and its metrics keep their names.
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
                    f"The weight of {name} is {weight}; it must be positive. Leave out additions of weight 0."
                )

    @property
    def needs_gathered(self) -> bool:
        return any(part.needs_gathered for part in self._parts())

    @property
    def needs_gathered_negatives(self) -> bool:
        return any(part.needs_gathered_negatives for part in self._parts())

    def facts(self) -> dict[str, float]:
        return self.main.facts()

    def _parts(self) -> list[EmbeddingLoss]:
        return [self.main, *(loss for _, loss in self.additions.values())]

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The sum. Metrics: those of the parts, and ``main_loss`` and ``{name}_loss``, each unweighted.

        Args:
            local, gathered, first_query: as in ``EmbeddingLoss``.
        """
        return self.on_prefixes(local, gathered, [local.dim], first_query)[0]

    def on_prefixes(
        self, local: Embeddings, gathered: Embeddings | None, dims: Sequence[int], first_query: int = 0
    ) -> list[LossOutput]:
        """The sum on each prefix; every part may compute all prefixes in one pass.

        Args:
            local, gathered, dims, first_query: as in ``EmbeddingLoss``.
        """
        outputs = []
        parts = [part.on_prefixes(local, gathered, dims, first_query) for part in self._parts()]
        for output, *added in zip(*parts, strict=True):
            total, metrics = output.loss, output.metrics | {"main_loss": output.loss.detach()}
            for (name, (weight, _)), addition in zip(self.additions.items(), added, strict=True):
                total = total + weight * addition.loss
                metrics[f"{name}_loss"] = addition.loss.detach()
                metrics |= {f"{name}_{key}": value for key, value in addition.metrics.items()}
            outputs.append(LossOutput(total, metrics))
        return outputs
