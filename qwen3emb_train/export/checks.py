"""Verification: named checks that pass, fail or are skipped with a reason, and their table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """Result of a check."""

    ok = "ok"
    failed = "FAILED"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: the property that is checked.
        status: the result.
        detail: what was found; for a failure what is wrong, for a skipped check why.
        metrics: measured values (least cosines), for ``run.json``.
    """

    name: str
    status: Status
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Result of a passed check; attributes as in ``Check``."""

    detail: str
    metrics: dict[str, float] = field(default_factory=dict)


class BrokenPromiseError(ValueError):
    """Raised by a check that fails."""


class NotApplicableError(Exception):
    """Raised by a check that does not apply to the folder; its message is the reason."""


class VerificationError(ValueError):
    """Raised for a folder with a failed check; its message is the table."""


class Checklist:
    """Runs checks one after another; a check that needs a failed one is skipped.

    Attributes:
        checks: the results so far.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def run(self, name: str, look: Callable[[], Finding], needs: Sequence[str] = ()) -> None:
        """Runs a check and adds its result.

        Any error that a damaged folder causes in transformers or Sentence-Transformers belongs in the table, under the
        name of the check; hence the broad ``except``.

        Args:
            name: of the check.
            look: returns a finding, or raises BrokenPromiseError or NotApplicableError.
            needs: names of checks that must not have failed.
        """
        broken = [check.name for check in self.checks if check.name in needs and check.status is Status.failed]
        if broken:
            self.checks.append(Check(name, Status.skipped, f"not checked, because {broken[0]!r} failed"))
            return
        try:
            finding = look()
            self.checks.append(Check(name, Status.ok, finding.detail, finding.metrics))
        except NotApplicableError as reason:
            self.checks.append(Check(name, Status.skipped, str(reason)))
        except BrokenPromiseError as problem:
            self.checks.append(Check(name, Status.failed, str(problem)))
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.checks.append(Check(name, Status.failed, f"{type(error).__name__}: {lines[0]}"))


def has_failed(checks: Sequence[Check]) -> bool:
    """Whether any check failed."""
    return any(check.status is Status.failed for check in checks)


def format_checks(checks: Sequence[Check]) -> str:
    """The table: name, status and detail of each check, and counts."""
    names = max(len(check.name) for check in checks)
    lines = [f"{check.name.ljust(names)}  {check.status.value.ljust(7)}  {check.detail}".rstrip() for check in checks]
    counts = ", ".join(f"{sum(c.status is status for c in checks)} {status.value}" for status in Status)
    return "\n".join([*lines, counts])


def as_figures(checks: Sequence[Check]) -> dict[str, Any]:
    """For ``run.json``: status, detail and metrics by name."""
    return {check.name: {"status": check.status.value, "detail": check.detail} | check.metrics for check in checks}
