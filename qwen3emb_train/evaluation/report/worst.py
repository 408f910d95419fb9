"""The queries with the lowest scores, their relevant documents, and the documents found instead."""

from typing import Any

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.evaluation.report.similarities import ModelDiagnostics


def worst_section(diagnostics: ModelDiagnostics, num_worst: int) -> Section | None:
    """For each model and set its worst queries; None where no entry has any."""
    groups = [
        {"model": model, "set": entry.text("set"), "queries": list(map(_query, entry.entries("worst")[:num_worst]))}
        for model, entry in diagnostics
        if entry.has("worst")
    ]
    if not any(group["queries"] for group in groups):
        return None
    return Section("worst", "Worst queries", content={"groups": groups})


def _query(query: Entry) -> dict[str, Any]:
    return {
        "query": query.text("query"), "id": query.text("query_id"), "score": query.number("score"),
        "relevant": [{"id": one.text("id"), "text": one.text("text")} for one in query.entries("relevant")],
        "found": [
            {
                "id": one.text("id"), "text": one.text("text"),
                "cosine": one.number("cosine") if one.has("cosine") else None,
                "is_relevant": one.has("relevance") and one.number("relevance") > 0,
            }
            for one in query.entries("found")
        ],
    }  # fmt: skip
