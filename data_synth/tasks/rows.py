"""From answers to rows, checked as the reader of training data checks them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_synth.documents import Passage
from data_synth.prompts import Prompt
from data_synth.work import Accepted, Outcome, Rejected
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.words import hash64


def accept(row: TrainingExample, facts: Mapping[str, Any]) -> Outcome:
    """The row with its facts, or a rejection if the row is not valid."""
    documents = [*row.positives, *row.negatives]
    normal = [" ".join(text.split()).casefold() for text in [row.query, *documents]]
    if len(set(normal)) < len(normal):
        return Rejected("equal_texts", f"two texts of the row are equal: {documents[0][:100]!r}")
    try:
        return Accepted((TrainingExample.from_json(row.to_json()),), (dict(facts),))
    except ValueError as problem:
        return Rejected("invalid_row", str(problem)[:500])


def at(prompt: Prompt, rejected: Rejected) -> Rejected:
    """The rejection with the name of the call in its detail."""
    return replace(rejected, detail=f"{prompt.name}: {rejected.detail}")


def source_of(passage: Passage) -> str:
    """The ``source`` of a row: its passage's source and id."""
    return f"{passage.source}/{passage.id}" if passage.source else passage.id


def instruction_of(instructions: Mapping[str, Sequence[str]], passage: Passage, default: str) -> str:
    """One of the instructions of the passage's source, by the passage's digest.

    Args:
        instructions: source -> its instructions.
        passage: of the row.
        default: for a source that has none.
    """
    sentences = instructions.get(passage.source)
    return sentences[hash64(passage.id) % len(sentences)] if sentences else default


def facts_of(passage: Passage, plan: Mapping[str, Any], prompt: Prompt, **more: Any) -> dict[str, Any]:
    """The facts of a row, which the statistics count.

    Args:
        passage: the row's.
        plan: of the item.
        prompt: of the call that wrote the query.
        more: further facts.
    """
    planned = {name: value for name, value in plan.items() if name not in ("turn", "order")}
    return {
        "passage": passage.id, "document": passage.document, "passage_language": passage.language,
        "prompt": prompt.label, **planned, **more,
    }  # fmt: skip
