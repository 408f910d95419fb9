"""The result table as text or Markdown."""

from collections.abc import Sequence

from qwen3emb_train.evaluation.config import TaskKind
from qwen3emb_train.evaluation.results import ResultRow
from qwen3emb_train.evaluation.stored_vectors import StoredAs

_NOTHING = "-"


def format_table(rows: Sequence[ResultRow], *, markdown: bool = False) -> str:
    """The rows as an aligned text table, or as a Markdown one.

    Rows of retrieval only show every metric; rows of several tasks the name and value of the main one. Storage,
    intervals, the comparison and pairs/s have a column only if some row has them.

    Args:
        rows: of the table.
        markdown: Markdown instead of aligned text.
    """
    columns = _columns(rows)
    lines = [list(columns), *([cells[index] for cells in columns.values()] for index in range(len(rows)))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    is_left = [name in ("model", "set", "vectors", "metric") for name in columns]
    padded = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_left, strict=True)
        ]
        for line in lines
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, is_left, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def _columns(rows: Sequence[ResultRow]) -> dict[str, list[str]]:
    """Cells by heading, names before numbers."""
    columns = {"model": [row.model for row in rows], "set": [row.set for row in rows]}
    columns["dim"] = [_NOTHING if row.dim is None else str(row.dim) for row in rows]
    if any(row.quantization != StoredAs.float32.value for row in rows):
        columns["vectors"] = [row.quantization for row in rows]
    is_retrieval = all(row.task == TaskKind.retrieval.value for row in rows)
    columns["queries" if is_retrieval else "scored"] = [str(row.num_queries) for row in rows]
    if is_retrieval:
        for metric in rows[0].scores if rows else []:
            columns[metric] = [f"{row.scores[metric]:.4f}" for row in rows]
    else:
        columns["metric"] = [row.metric for row in rows]
        columns["score"] = [f"{row.scores[row.metric]:.4f}" for row in rows]
    if any(row.interval for row in rows):
        # Several metrics are shown, so the heading names that of the interval.
        heading = f"{rows[0].metric} interval" if is_retrieval else "interval"
        columns[heading] = [_interval(row) for row in rows]
    for baseline in dict.fromkeys(row.against.baseline for row in rows if row.against):
        is_tested = any(row.against and row.against.p_value is not None for row in rows)
        columns[f"vs {baseline} (p)" if is_tested else f"vs {baseline}"] = [_against(row) for row in rows]
    if any(row.pairs_per_second is not None for row in rows):
        columns["pairs/s"] = [
            _NOTHING if row.pairs_per_second is None else f"{row.pairs_per_second:,.1f}" for row in rows
        ]
    return columns


def _interval(row: ResultRow) -> str:
    return _NOTHING if row.interval is None else f"[{row.interval[0]:.4f}, {row.interval[1]:.4f}]"


def _against(row: ResultRow) -> str:
    if row.against is None:
        return _NOTHING
    difference = f"{row.against.difference:+.4f}"
    if row.against.p_value is None:
        return difference
    return f"{difference} (<0.001)" if row.against.p_value < 0.001 else f"{difference} ({row.against.p_value:.3f})"
