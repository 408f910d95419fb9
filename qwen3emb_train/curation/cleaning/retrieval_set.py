"""Held-out rows as a retrieval set in BEIR layout, for ``evaluate``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from qwen3emb_train.data.qrels import HEADER
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.overlap import normal_form


def write_retrieval_set(directory: Path, split: str, examples: Iterable[TrainingExample]) -> tuple[int, int]:
    """Writes queries.jsonl, corpus.jsonl and qrels/SPLIT.tsv; returns the numbers of queries and documents.

    Rows with equal queries become one query with the documents of all. Negatives are in the corpus, without judgements.

    Args:
        directory: to write to.
        split: name of the qrels file.
        examples: the rows.
    """
    (directory / "qrels").mkdir(parents=True)
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    judged: set[tuple[str, str]] = set()
    with (
        (directory / "queries.jsonl").open("w", encoding="utf-8") as queries_file,
        (directory / "corpus.jsonl").open("w", encoding="utf-8") as corpus_file,
        (directory / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as qrels_file,
    ):
        qrels_file.write("\t".join(HEADER) + "\n")
        for example in examples:
            query = _id_of(example.query, "q", queries, queries_file)
            for text in example.positives:
                pair = query, _id_of(text, "d", documents, corpus_file)
                if pair not in judged:
                    judged.add(pair)
                    qrels_file.write("\t".join([*pair, "1"]) + "\n")
            for text in example.negatives:
                _id_of(text, "d", documents, corpus_file)
    return len(queries), len(documents)


def _id_of(text: str, prefix: str, known: dict[str, str], file: TextIO) -> str:
    """The id of a text; a new text is written."""
    form = normal_form(text)
    if form not in known:
        known[form] = f"{prefix}{len(known)}"
        file.write(json.dumps({"_id": known[form], "text": text}, ensure_ascii=False) + "\n")
    return known[form]
