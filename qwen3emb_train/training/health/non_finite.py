"""A loss or gradient that is NaN or infinite reaches no weight on any rank, and the message names its origin."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch

from qwen3emb_train.data.batches import TrainingBatch
from qwen3emb_train.distributed import all_gather_rows, any_rank
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.training.health.gradients import NamedTensors, non_finite_groups

_REMEDY = "Lower optimizer.lr, try precision=fp32, or read the texts of these rows."


class NonFiniteError(RuntimeError):
    """A loss or gradient that is NaN or infinite: no update was applied."""


class NonFiniteAction(str, Enum):
    """What a non-finite step does to the run; in both cases no rank updates its weights."""

    stop = "stop"
    skip = "skip"


@dataclass
class NonFinitePolicy:
    """What happens when a loss or gradient is NaN or infinite.

    Attributes:
        action: stop, or skip: leave the step's update out on every rank, record it, go on.
        max_skipped: with skip: one more in a row than this stops the run.
    """

    action: NonFiniteAction = NonFiniteAction.stop
    max_skipped: int = 3

    def __post_init__(self) -> None:
        if self.max_skipped < 1:
            raise ValueError(f"non_finite.max_skipped is {self.max_skipped}; use 1 or more, or action=stop.")


@dataclass(frozen=True)
class NonFinite:
    """One non-finite step, in the same words on every rank.

    Attributes:
        step: 0-based, as the batch plan counts.
        source: the batch's.
        findings: by rank, what was found in its share; only the ranks nearest to the cause.
    """

    step: int
    source: str
    findings: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        named = [f"rank {number}: {finding}" for number, finding in sorted(self.findings.items())]
        more = f"; and {len(named) - 4} more ranks" if len(named) > 4 else ""
        return f"step {self.step}, source {self.source or '-'}, not finite: {'; '.join(named[:4])}{more}"


class NonFiniteGuard:
    """Checks a step between the backward pass and the update, on every rank."""

    def __init__(self, policy: NonFinitePolicy | None = None) -> None:
        self.policy = policy or NonFinitePolicy()
        self.skipped_in_a_row = 0

    def check(
        self,
        step: int,
        batch: TrainingBatch,
        loss: float,
        gradients_finite: bool,
        bad_queries: Callable[[], Sequence[int]],
        named_gradients: NamedTensors,
        device: torch.device | str = "cpu",
    ) -> NonFinite | None:
        """None: update. A ``NonFinite``: clear the gradients, update nothing, record it. Collective.

        Args:
            step: 0-based.
            batch: this rank's.
            loss: this rank's.
            gradients_finite: whether this rank's gradients are finite, e.g. from the clipped norm.
            bad_queries: finds this rank's queries at fault; called only when something is wrong somewhere.
            named_gradients: this rank's; read only when something is wrong somewhere.
            device: for the collectives.

        Raises:
            NonFiniteError: by the policy; on every rank alike.
        """
        if not any_rank(not (math.isfinite(loss) and gradients_finite), device):
            self.skipped_in_a_row = 0
            return None
        finding = describe(batch, loss, gradients_finite, bad_queries(), non_finite_groups(named_gradients))
        found = NonFinite(step, batch.source, nearest_to_cause(gather_texts(finding, device)))
        self.skipped_in_a_row += 1
        if self.policy.action is NonFiniteAction.skip and self.skipped_in_a_row <= self.policy.max_skipped:
            return found
        skipped = self.skipped_in_a_row - 1
        so_far = f" {skipped} steps in a row were skipped before." if skipped else ""
        raise NonFiniteError(f"{found}. No update was applied and the last checkpoint is intact.{so_far} {_REMEDY}")


def bad_queries(local: Embeddings) -> list[int]:
    """This rank's queries of which a vector (their own, a positive's or a hard negative's) is not finite."""
    bad = ~local.queries.detach().isfinite().all(1)
    for vectors, query_idx in (
        (local.positives, local.positive_query_idx),
        (local.negatives, local.negative_query_idx),
    ):
        bad[query_idx[~vectors.detach().isfinite().all(1)]] = True
    return bad.nonzero().flatten().tolist()


def describe(
    batch: TrainingBatch, loss: float, gradients_finite: bool, queries: Sequence[int], groups: Sequence[str]
) -> str:
    """What is wrong on this rank, causes before effects; empty when nothing is.

    Args:
        batch: this rank's.
        loss: this rank's.
        gradients_finite: this rank's.
        queries: its queries with a vector that is not finite.
        groups: kinds of weights whose gradient is not finite.
    """
    parts = []
    if queries:
        parts.append(f"vectors of {batch.describe_rows(queries)}")
    if not math.isfinite(loss):
        parts.append(f"loss {loss}")
    if not gradients_finite or groups:
        parts.append(f"gradients of {', '.join(groups)}" if groups else "gradient norm")
    return ", ".join(parts)


def nearest_to_cause(findings: Mapping[int, str]) -> dict[int, str]:
    """The ranks where it began: NaN vectors enter every rank's loss, a NaN loss every rank's reduced gradients."""
    for kind in ("vectors", "loss", "gradient"):
        chosen = {number: finding for number, finding in findings.items() if finding.startswith(kind)}
        if chosen:
            return chosen
    return dict(findings)


def gather_texts(text: str, device: torch.device | str = "cpu") -> dict[int, str]:
    """Every rank's text by rank, empty ones left out; bytes in a tensor, so nothing is unpickled. Collective."""
    encoded = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8).to(device)
    texts = [bytes(part.tolist()).decode().strip("\0") for part in all_gather_rows(encoded)]
    return {number: found for number, found in enumerate(texts) if found}
