"""The running totals of a run."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunSummary:
    """What one call of ``run`` did.

    Attributes:
        num_done_before: items that had ended in an earlier run.
        num_failed_before: those of them that had failed.
        num_repeated: items with the key of an earlier one, which are skipped.
        num_accepted, num_rejected, num_failed: items that ended in this run.
        num_waiting: items that go on when the next round has been answered.
        first_failure: which item failed first, and why; "" if none did.
        num_rows: of accepted items.
        num_calls: replies received.
        num_replayed: replies taken from the ledger instead.
        prompt_tokens, completion_tokens: of ``num_calls``, as reported by the server.
        reasons: items by reason, rejected and failed.
        seconds: wall time.
        is_interrupted: whether a signal stopped the run; a later start continues it.
    """

    num_done_before: int = 0
    num_failed_before: int = 0
    num_repeated: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    num_failed: int = 0
    num_waiting: int = 0
    first_failure: str = ""
    num_rows: int = 0
    num_calls: int = 0
    num_replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    is_interrupted: bool = False

    @property
    def num_ended(self) -> int:
        """Items that ended in this run."""
        return self.num_accepted + self.num_rejected + self.num_failed

    def add(self, before: "RunSummary") -> None:
        """Adds the totals of an earlier pass over the same items."""
        for name in ("accepted", "rejected", "failed", "rows", "calls", "replayed"):
            setattr(self, f"num_{name}", getattr(self, f"num_{name}") + getattr(before, f"num_{name}"))
        self.num_done_before, self.num_failed_before = before.num_done_before, before.num_failed_before
        self.prompt_tokens += before.prompt_tokens
        self.completion_tokens += before.completion_tokens
        self.first_failure = before.first_failure or self.first_failure
        self.reasons.update(before.reasons)
        self.seconds += before.seconds

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"reasons": dict(self.reasons)}
