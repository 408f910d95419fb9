"""Rows, files of them, and what ``clean`` makes of one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3emb_train.curation.cleaning.clean import clean
from qwen3emb_train.curation.cleaning.config import CleanConfig


def row(query: str, *positives: str, **more: Any) -> dict[str, Any]:
    return {"query": query, "positives": list(positives), **more}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def cleaned(directory: Path, rows: Sequence[Any], **settings: Any) -> Path:
    """The output of ``clean`` on these rows."""
    examples = write_rows(directory / "examples.jsonl", rows)
    return clean(CleanConfig(examples=str(examples), output_dir=str(directory / "out"), **settings))


def reasons(output: Path) -> dict[int, str]:
    """The reason of each line that was left out."""
    return {one["line"]: path.stem for path in (output / "rejected").glob("*.jsonl") for one in read_rows(path)}


def write_set(
    directory: Path, queries: Sequence[str], documents: Sequence[str], judged: Sequence[tuple[int, int]]
) -> Path:
    """A retrieval set; ``judged`` are (query, relevant document) of the split "test"."""
    (directory / "qrels").mkdir(parents=True)
    write_rows(directory / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    write_rows(
        directory / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
    )
    lines = ["query-id\tcorpus-id\tscore", *(f"q{query}\td{document}\t1" for query, document in judged)]
    (directory / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return directory
