"""The tests marked gpu, counted. Only their files are collected: others need libraries that may be absent."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from scripts.acceptance.part import Row, Setup, required

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def measure(setup: Setup) -> list[Row]:
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    report = setup.work / "junit.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider",
        "--continue-on-collection-errors", f"--junitxml={report}", *(str(path.relative_to(ROOT)) for path in files),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT)  # its exit code is in the report
    return rows_of(report, is_cuda=setup.is_cuda)


def rows_of(report: Path, *, is_cuda: bool) -> list[Row]:
    """Counts, and a row with the reason of each test that was skipped or failed.

    Args:
        report: JUnit XML.
        is_cuda: whether some test must have run.
    """
    cases = list(ElementTree.parse(report).iter("testcase"))
    by_outcome: dict[str, list[ElementTree.Element]] = {"failure": [], "error": [], "skipped": []}
    for case in cases:
        for outcome, members in by_outcome.items():
            if case.find(outcome) is not None:
                members.append(case)
    passed = len(cases) - sum(len(members) for members in by_outcome.values())
    rows = [
        Row("tests marked gpu", len(cases), bound="> 0", ok=len(cases) > 0),
        Row("passed", passed, bound="> 0" if is_cuda else "", ok=passed > 0 if is_cuda else None),
        required("failed", len(by_outcome["failure"]), 0),
        required("could not be collected", len(by_outcome["error"]), 0),
        Row("skipped", len(by_outcome["skipped"])),
    ]
    reasons: dict[str, str] = {}
    for outcome, members in by_outcome.items():
        for case in members:
            found = case.find(outcome)
            message = "" if found is None else str(found.get("message", ""))
            reasons.setdefault(message[:200], f"{outcome}: {case.get('classname', '')}.{case.get('name', '')}")
    return rows + [Row(name, reason) for reason, name in reasons.items()]
