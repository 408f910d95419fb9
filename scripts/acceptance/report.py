"""``gpu_acceptance.json``: every part's result. And the same as a Markdown table."""

import json
import os
from pathlib import Path
from typing import Any

FILE = "gpu_acceptance.json"
TABLE = "gpu_acceptance.md"
DONE, FAILED, CANNOT_RUN, LEFT_OUT = "done", "failed", "cannot run", "left out"


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Results by part; empty where there is no file yet."""
    path = directory / FILE
    if not path.exists():
        return {}
    parts: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return parts


def write(directory: Path, results: dict[str, dict[str, Any]], order: tuple[str, ...]) -> None:
    """Both files; a reader sees the old or the new one.

    Args:
        directory: created.
        results: by part.
        order: of the parts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ordered = {name: results[name] for name in order if name in results}
    for name, text in ((FILE, json.dumps({"parts": ordered}, indent=1) + "\n"), (TABLE, table(ordered))):
        new = directory / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        os.replace(new, directory / name)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of all rows, and the parts that did not run, each with its reason."""
    lines = ["| Part | What | Found | Bound | |", "|---|---|---:|---|---|"]
    for name, result in results.items():
        for number, row in enumerate(result["rows"]):
            verdict = {True: "ok", False: "**no**", None: ""}[row["ok"]]
            found = f"{_figure(row['found'])} {row['unit']}".strip()
            lines.append(f"| {name if number == 0 else ''} | {_cell(row['what'])} | {_cell(found)} | "
                         f"{_cell(row['bound'])} | {verdict} |")  # fmt: skip
    without = {name: result for name, result in results.items() if result["reason"]}
    if without:
        lines += ["", *(f"- {name}: {result['status']}: {result['reason']}" for name, result in without.items())]
    return "\n".join(lines) + "\n"


def _figure(value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
