"""The average row: lengths from a sample of the data, else the maximum that the settings allow."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig, source_shares
from qwen3emb_train.data.readers import ReadingConfig, read_examples
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import shard_paths
from qwen3emb_train.data.tokenization import TextTokenizer

_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class RowShape:
    """An average row of one source, or of the mixture.

    Attributes:
        query_tokens, document_tokens: mean lengths after truncation, EOS token included.
        positives, negatives: documents of a row.
        rows: in the source; None = unknown.
        origin: how the figures were obtained, for the report.
    """

    query_tokens: float
    document_tokens: float
    positives: float
    negatives: float
    rows: int | None
    origin: str

    @property
    def texts(self) -> float:
        return 1 + self.positives + self.negatives

    @property
    def tokens(self) -> float:
        return self.query_tokens + (self.positives + self.negatives) * self.document_tokens


def largest_row(source: SourceConfig, lengths: LengthConfig) -> RowShape:
    """The maximum that the settings allow, for data that does not exist yet."""
    return RowShape(
        float(lengths.max_query_tokens),
        float(lengths.max_document_tokens),
        float(source.max_positives or 1),
        float(source.max_negatives or 0),
        None,
        "no file yet: every text at its length limit",
    )


def sample_row(
    source: SourceConfig,
    lengths: LengthConfig,
    reading: ReadingConfig,
    tokenizer: TextTokenizer | None,
    sample_rows: int,
) -> RowShape:
    """The mean of the first ``sample_rows`` rows; the number of rows is estimated from the files' sizes.

    Args:
        source: the data.
        lengths: truncation lengths.
        reading: how strictly to read.
        tokenizer: None: four characters count as a token.
        sample_rows: rows to read.

    Raises:
        ValueError: there is no example.
    """
    path = Path(source.path)
    sampled = list(islice(read_examples(path, reading, columns=source.columns, task=source.task), sample_rows))
    if not sampled:
        raise ValueError(f"{path}: no training example in it. Give a file with at least one line.")
    queries = [format_query(_instruction(source, example), example.query) for example in sampled]
    documents = [text for example in sampled for text in (*example.positives, *example.negatives)]
    limits = (lengths.max_query_tokens, lengths.max_document_tokens)
    query_tokens, document_tokens = (
        _mean_tokens(texts, limit, tokenizer) for texts, limit in zip((queries, documents), limits, strict=True)
    )
    count = len(sampled)
    positives = sum(min(len(e.positives), source.max_positives or len(e.positives)) for e in sampled) / count
    negatives = sum(min(len(e.negatives), _or(source.max_negatives, len(e.negatives))) for e in sampled) / count
    how = "tokenised" if tokenizer is not None else "4 characters taken for a token"
    if count < sample_rows:
        return RowShape(query_tokens, document_tokens, positives, negatives, count, f"all {count:,} rows, {how}")
    rows = _count_rows(path, sampled)
    return RowShape(query_tokens, document_tokens, positives, negatives, rows, f"first {count:,} rows, {how}")


def mix(rows: Mapping[str, RowShape], sources: Mapping[str, SourceConfig], mixture: MixtureConfig) -> RowShape:
    """The average row of a step, sources weighted by their shares.

    Args:
        rows: average row of each source; one of unknown size counts as the largest known.
        sources: by name.
        mixture: the shares.
    """
    known = {name: _used(row.rows, sources[name]) for name, row in rows.items() if row.rows is not None}
    largest = max(known.values(), default=1)
    sizes = {name: known.get(name, largest) for name in rows}
    share: dict[str, float] = dict.fromkeys(rows, 0.0)
    for members, part in source_shares(sources, sizes, mixture).items():
        for name in members:  # a mixed batch takes rows of its sources in proportion to their sizes
            share[name] += part * sizes[name] / sum(sizes[member] for member in members)

    def mean(field: str) -> float:
        return sum(share[name] * float(getattr(row, field)) for name, row in rows.items())

    documents = mean("positives") + mean("negatives")
    document_tokens = sum(
        share[name] * (row.positives + row.negatives) * row.document_tokens for name, row in rows.items()
    )
    return RowShape(
        mean("query_tokens"),
        document_tokens / documents,
        mean("positives"),
        mean("negatives"),
        sum(known.values()) if len(known) == len(rows) else None,
        "; ".join(dict.fromkeys(row.origin for row in rows.values())),
    )


def _used(rows: int, source: SourceConfig) -> int:
    return rows if source.max_rows is None else min(rows, source.max_rows)


def _instruction(source: SourceConfig, example: TrainingExample) -> str | None:
    return source.instruction if example.instruction is None else example.instruction


def _or(limit: int | None, count: int) -> int:
    return count if limit is None else limit


def _mean_tokens(texts: list[str], limit: int, tokenizer: TextTokenizer | None) -> float:
    if tokenizer is not None:
        counts = [len(ids) for ids in tokenizer.tokenize(texts, limit)]
    else:
        counts = [min(limit, round(len(text) / _CHARACTERS_PER_TOKEN) + 1) for text in texts]
    return sum(counts) / max(len(counts), 1)


def _count_rows(path: Path, sampled: list[TrainingExample]) -> int | None:
    """Rows of a file or directory: exact for Parquet, by the mean size of a line for JSON Lines."""
    files = shard_paths(path)
    if all(file.suffix == ".parquet" for file in files):
        import pyarrow.parquet

        return sum(pyarrow.parquet.ParquetFile(file).metadata.num_rows for file in files)
    lines = [file for file in files if file.suffix in (".jsonl", ".ndjson")]
    if len(lines) != len(files):
        return None
    num_bytes = 0
    with lines[0].open("rb") as file:
        head = list(islice(file, len(sampled)))
        num_bytes = sum(len(line) for line in head)
    return round(sum(os.path.getsize(file) for file in lines) * len(head) / max(num_bytes, 1))
