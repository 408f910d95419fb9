"""What a verification is made of: named checks that pass, fail or are skipped with their reason, and their table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a check ended."""

    ok = "ok"
    failed = "FAILED"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: what is promised.
        status: whether it is kept.
        detail: what was seen; for a failure what is wrong, for a skipped check why.
        figures: what was measured (least cosines), for ``run.json``.
    """

    name: str
    status: Status
    detail: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a passed check reports."""

    detail: str
    figures: dict[str, float] = field(default_factory=dict)


class BrokenPromiseError(ValueError):
    """Raised by a check that sees something wrong."""


class NotApplicableError(Exception):
    """Raised by a check that has nothing to look at; says why."""


class VerificationError(ValueError):
    """A folder that is not what it says; its message is the table."""


class Checklist:
    """Runs checks one after another; a check that needs a failed one is skipped.

    Attributes:
        checks: the results so far.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def run(self, name: str, look: Callable[[], Finding], needs: Sequence[str] = ()) -> None:
        """Runs ``look``, which returns what it found or raises.

        Whatever a damaged folder makes transformers or Sentence-Transformers raise belongs in the table, beside the
        name of the promise that it breaks; hence the broad ``except``.
        """
        broken = [check.name for check in self.checks if check.name in needs and check.status is Status.failed]
        if broken:
            self.checks.append(Check(name, Status.skipped, f"cannot be looked at, because {broken[0]!r} failed"))
            return
        try:
            finding = look()
            self.checks.append(Check(name, Status.ok, finding.detail, finding.figures))
        except NotApplicableError as reason:
            self.checks.append(Check(name, Status.skipped, str(reason)))
        except BrokenPromiseError as problem:
            self.checks.append(Check(name, Status.failed, str(problem)))
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.checks.append(Check(name, Status.failed, f"{type(error).__name__}: {lines[0]}"))


def has_failed(checks: Sequence[Check]) -> bool:
    return any(check.status is Status.failed for check in checks)


def format_checks(checks: Sequence[Check]) -> str:
    """The table: promise, status, what was seen."""
    names = max(len(check.name) for check in checks)
    lines = [f"{check.name.ljust(names)}  {check.status.value.ljust(7)}  {check.detail}".rstrip() for check in checks]
    counts = ", ".join(f"{sum(c.status is status for c in checks)} {status.value}" for status in Status)
    return "\n".join([*lines, counts])


def as_figures(checks: Sequence[Check]) -> dict[str, Any]:
    """For ``run.json``: status, detail and figures by name."""
    return {check.name: {"status": check.status.value, "detail": check.detail} | check.figures for check in checks}
