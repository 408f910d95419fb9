"""Token stores in memory, for tests of what is planned on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwen3emb_train.data.token_store import TokenStore

Row = tuple[int, Sequence[int], Sequence[int]]  # hashes of the query, the positives, the negatives


def make_store(
    rows: Sequence[Row],
    *,
    tokens: Sequence[int] | None = None,
    languages: Sequence[str] | None = None,
    with_scores: bool = False,
    contents: str = "contents",
) -> TokenStore:
    """Args:
    tokens: of each text of a row; default 1. The ids of a text are its text_hash, over and over.
    languages: of each row.
    with_scores: a document's score is its text_hash.
    """
    texts = [[query, *positives, *negatives] for query, positives, negatives in rows]
    hashes = [text_hash for row in texts for text_hash in row]
    lengths = [length for row, length in zip(texts, tokens or [1] * len(rows), strict=True) for _ in row]
    is_query = [place == 0 for row in texts for place in range(len(row))]
    names = tuple(sorted(set(languages or [""])))
    return TokenStore(
        directory=Path("memory"),
        key=f"key of {contents}",
        contents=contents,
        ids=np.repeat(np.array(hashes, dtype=np.int32), lengths),
        text_ends=np.cumsum(lengths),
        text_hashes=np.array(hashes, dtype=np.int64),
        row_ends=np.cumsum([len(row) for row in texts]),
        num_positives=np.array([len(positives) for _, positives, _ in rows], dtype=np.int32),
        scores=np.where(is_query, np.nan, hashes).astype(np.float32) if with_scores else None,
        languages=None if languages is None else np.array([names.index(name) for name in languages], dtype=np.int16),
        language_names=names,
    )


def distinct_rows(num_rows: int, first: int = 1) -> list[Row]:
    """Rows of a query and a positive; no text occurs twice."""
    return [(first + 2 * row, [first + 2 * row + 1], []) for row in range(num_rows)]
