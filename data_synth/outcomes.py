"""Conversion of an item's outcome to a ledger record and back."""

from dataclasses import replace

from data_synth.ledger_database import OK, REJECTED, End
from data_synth.work import Accepted, Outcome, Rejected
from qwen3emb_train.data.records import TrainingExample

LONGEST_DETAIL = 2_000  # characters


def checked(outcome: Outcome) -> Outcome:
    """The outcome, or a rejection if its rows could not be read back.

    Raises:
        ValueError: the number of facts differs from that of the rows (a bug in the task).
    """
    try:
        for row in outcome.rows:
            TrainingExample.from_json(row.to_json())
    except ValueError as problem:
        # Without the rows, as they could not be read back.
        if isinstance(outcome, Rejected):
            return replace(outcome, rows=())
        return Rejected("invalid_example", str(problem)[:LONGEST_DETAIL])
    if isinstance(outcome, Accepted) and outcome.facts and len(outcome.facts) != len(outcome.rows):
        raise ValueError(f"{len(outcome.rows)} rows with {len(outcome.facts)} facts. Give one per row, or none.")
    if isinstance(outcome, Accepted) and not outcome.rows:
        return Rejected("no_rows", "accepted, but without a row")
    return outcome


def to_record(outcome: Outcome, prompts: list[str], requests: list[str]) -> End:
    """The outcome as the ledger records it.

    Args:
        outcome: of an item.
        prompts: labels of the prompts that led to it.
        requests: the ``request_key`` of each call that led to it; kept for a rejection, which may be asked again.
    """
    rows = [row.to_json() for row in outcome.rows]
    if isinstance(outcome, Accepted):
        return End(OK, {"rows": rows, "facts": [dict(facts) for facts in outcome.facts], "prompts": prompts})
    fields = {"reason": outcome.reason, "detail": outcome.detail[:LONGEST_DETAIL]}
    return End(REJECTED, {**fields, "rows": rows, "prompts": prompts, "requests": requests})


def from_record(end: End) -> Outcome:
    """The outcome that ``to_record`` received."""
    rows = tuple(TrainingExample.from_json(row) for row in end.body["rows"])
    if end.kind == OK:
        return Accepted(rows, tuple(end.body["facts"]))
    return Rejected(end.body["reason"], end.body["detail"], rows)
