"""BM25, the baseline that every embedding model should beat."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def rank_with_bm25(queries: Sequence[str], documents: Sequence[str], k: int) -> Int[Tensor, "queries kept"]:
    """Rows of the ``k`` best documents of every query by bm25s (Lucene's variant), English stop words removed.

    Words are cut at non-word characters, so for languages written without spaces the figure says little.

    Raises:
        ImportError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError:
        raise ImportError("The BM25 baseline needs bm25s: pip install 'qwen3emb-train[eval]'.") from None
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents), stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False, return_ids=False)
    scores = [torch.from_numpy(index.get_scores(words)) if words else torch.zeros(len(documents)) for words in tokens]
    # Ties in document order, as everywhere in this room: bm25s's own top-k breaks them by chance.
    return torch.stack([score.argsort(descending=True, stable=True)[:k] for score in scores])
