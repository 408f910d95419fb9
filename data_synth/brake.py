"""Stops a run whose replies are of no use, before all of them are bought.

A teacher that thinks until its limit, or whose answers end up in another field, is paid for every reply and gives no
row. The first items of a task are a trial: as long as it lasts, no more than these are asked.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from data_synth.ledger_database import OK, End
from data_synth.work import Accepted, Outcome, Rejected

REPLY_REASONS = frozenset(
    {"reply_cut", "not_json", "schema", "several_objects", "unreadable_reply", "refusal", "content_filter"}
)
"""Reasons of rejection that lie in how the teacher replies; a judge's begin with "judge_"."""

_LATER = 4  # times as many items in a row without a row stop the run after the trial
_SHOWN = 240  # characters of a reply
_THINKING = ("<think", "thinking")


@dataclass
class BrakeConfig:
    """When a task is stopped for the share of its replies that are accepted.

    Attributes:
        num_items: items of the trial at the beginning of a task; 0 turns the brake off. Afterwards four times as many
            rejected in a row stop it.
        min_acceptance: a smaller accepted share of the trial stops the run.
    """

    num_items: int = 50
    min_acceptance: float = 0.1

    def __post_init__(self) -> None:
        if self.num_items < 0 or not 0 <= self.min_acceptance <= 1:
            raise ValueError(
                f"brake.num_items={self.num_items}, brake.min_acceptance={self.min_acceptance}: give at least 0, and a "
                "share in [0, 1]."
            )


class UselessRepliesError(RuntimeError):
    """Too few replies of a task are accepted."""


class Brake:
    """Counts the outcomes of one task; those without a reply do not count.

    Args:
        task: its name.
        config: of the brake.
    """

    def __init__(self, task: str, config: BrakeConfig) -> None:
        self._task, self._config = task, config
        self._num_accepted = self._num_judged = self._num_open = self._num_later = self._num_in_a_row = 0
        self._reasons: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._changed = asyncio.Event()

    @property
    def is_trial(self) -> bool:
        """Whether the trial is going on."""
        return self._num_judged < self._config.num_items

    async def admit(self) -> bool:
        """Waits until another item may be begun; False if the trial goes on in the next round only.

        Raises:
            UselessRepliesError: those that have ended, in this run or an earlier one, are reason enough not to.
        """
        while self.is_trial and self._num_open and self._num_judged + self._num_open >= self._config.num_items:
            if self._num_later == self._num_open:
                return False
            self._changed.clear()
            await self._changed.wait()
        self._check()
        self._num_open += 1
        return True

    def left(self) -> None:
        """An item that was begun is no longer under way."""
        self._num_open -= 1
        self._changed.set()

    def later(self) -> None:
        """An item that was begun waits for the next round, and still has its place in the trial."""
        self._num_later += 1
        self._changed.set()

    def ended_before(self, end: End) -> None:
        """Counts an item that ended in an earlier run."""
        if end.kind == OK or end.body.get("requests"):
            self._count(end.kind == OK, end.body.get("reason", ""), end.body.get("detail", ""))

    def ended(self, outcome: Outcome) -> None:
        """Counts an item that ended on a reply.

        Raises:
            UselessRepliesError: too few are accepted.
        """
        is_accepted = isinstance(outcome, Accepted)
        self._num_in_a_row = 0 if is_accepted else self._num_in_a_row + 1
        if isinstance(outcome, Rejected):
            self._count(False, outcome.reason, outcome.detail)
        else:
            self._count(True, "", "")
        self._check()

    def _count(self, is_accepted: bool, reason: str, detail: str) -> None:
        self._num_judged += 1
        self._num_accepted += is_accepted
        if not is_accepted:
            self._reasons[reason] += 1
            self._details[reason] = detail

    def _check(self) -> None:
        num = self._config.num_items
        if not num or self.is_trial:
            return
        least = self._config.min_acceptance
        if self._num_accepted < least * self._num_judged:
            seen = f"{self._num_accepted} of {self._num_judged} items were accepted, and brake.min_acceptance={least:g}"
        elif least and self._num_in_a_row >= _LATER * num:
            seen = f"the last {self._num_in_a_row} items were all rejected"
        else:
            return
        raise UselessRepliesError(
            f"{self._task}: {seen}, so nothing more is bought. {advice(self._task, self._reasons, self._details)} "
            "brake.num_items=0 goes on regardless."
        )


def advice(task: str, reasons: Counter[str], details: Mapping[str, str]) -> str:
    """What was seen, and which setting to try.

    Args:
        task: name of the task.
        reasons: rejected items by reason.
        details: an example of each.
    """
    ((reason, _), *_) = reasons.most_common(1)
    seen = ", ".join(f"{name} {num:,}" for name, num in reasons.most_common(4))
    detail = details.get(reason, "")
    return (
        f"Rejected: {seen}; for example: {detail[:_SHOWN]!r}. Try {_remedy(task, reason, detail)}. "
        f"What was rejected is asked again with retry_rejected=[{reason}]."
    )


def _remedy(task: str, reason: str, detail: str) -> str:
    no_thinking = 'teacher.extra_body=\'{"chat_template_kwargs": {"enable_thinking": false}}\''
    room = "judge.max_tokens" if reason.startswith("judge_") else f"{task}.sampling.max_tokens"
    if reason.endswith("reply_cut") and any(word in detail for word in _THINKING):
        return f"{no_thinking} (it thinks until it is cut), or a much higher {room}"
    if any(word in detail for word in _THINKING):
        return f"{no_thinking}, or a server without its reasoning parser: what it wrote was all taken for reasoning"
    if reason.endswith("reply_cut"):
        return (
            f"a higher {room}, {no_thinking} if the model thinks, or teacher.structured_output=never if it fills the "
            "reply with white space"
        )
    if reason.endswith(("refusal", "content_filter")):
        return "another model or other documents, as this one declines"
    return (
        f"teacher.structured_output=always (or =never, if the schema spoils the replies), {no_thinking} if the model "
        f"thinks, or a higher {room}"
    )
