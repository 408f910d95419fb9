"""BM25: the baseline that every embedding model should beat, and a second source of hard negatives."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Bm25Index:
    """A BM25 index by bm25s (Lucene's variant), English stop words removed.

    Words are split at non-word characters, so for languages written without spaces the ranking means little.

    Raises:
        ImportError: bm25s is not installed.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self._bm25s = _import_bm25s()
        self._num_documents = len(documents)
        self._index: Any = self._bm25s.BM25()
        self._index.index(
            self._bm25s.tokenize(list(documents), stopwords="en", show_progress=False), show_progress=False
        )

    def top_k(
        self, queries: Sequence[str], k: int
    ) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
        """Scores and rows of the ``k`` best documents of every query, best first; equal scores by row."""
        words = self._bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
        kept = min(k, self._num_documents)
        scores, rows = torch.zeros(len(queries), kept), torch.arange(kept).repeat(len(queries), 1)
        for query, its_words in enumerate(words):
            if its_words:  # bm25s's own top-k breaks ties arbitrarily
                every = torch.from_numpy(self._index.get_scores(its_words))
                # Only candidates for the top k are sorted: most documents share no word with the query.
                lowest = every.topk(kept).values[-1]
                candidates = (every >= lowest).nonzero()[:, 0]
                order = every[candidates].argsort(descending=True, stable=True)[:kept]
                rows[query] = candidates[order]
                scores[query] = every[rows[query]]
        return scores, rows


def rank_with_bm25(queries: Sequence[str], documents: Sequence[str], k: int) -> Int[Tensor, "queries kept"]:
    """Rows of the ``k`` best documents of every query.

    Args:
        queries, documents: texts.
        k: documents per query.
    """
    return Bm25Index(documents).top_k(queries, k)[1]


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise ImportError("BM25 needs bm25s: pip install 'qwen3emb-train[eval]'.") from None
    return bm25s
