"""The program ``search``: the nearest documents of a corpus to a query, reranked if a reranker is given."""

from collections.abc import Sequence
from dataclasses import dataclass

from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.data.readers import ColumnsConfig
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.evaluation.cached_vectors import CachedEmbedder
from qwen3emb_train.evaluation.reranking import rerank, score_candidates
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder
from qwen3emb_train.index.nearest import top_k_documents
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import truncate_and_normalize
from qwen3emb_train.texts.visible import visible


@dataclass
class SearchConfig(ColumnsConfig):
    """Settings of a search.

    Attributes:
        model: a model directory (an export, a checkpoint's ``model/``, a merge).
        corpus: rows with ``text``, optional ``title`` and ``_id``; a BEIR corpus.jsonl is one.
        query: the question.
        top_k: how many hits.
        reranker: directory of a yes/no reranker that puts the nearest documents in order; null = no second stage.
        rerank_top_k: how many of the nearest documents it reads.
        instruction: what stands before the query, and what the reranker judges by. null = the model's own, "" = nothing
            (a reranker's template always holds one: its own).
        dim: Matryoshka dimension; null = the full vector.
        max_tokens: longest text.
        precision: precision of the matrix products.
        cache_dir: where document vectors are kept between searches; null = nowhere. They are full vectors, for any dim.
        num_processes: processes of our encoder: on a CPU, or one for each GPU. Exports have one.
    """

    model: str = "???"
    corpus: str = "???"
    query: str = "???"
    top_k: int = 10
    reranker: str | None = None
    rerank_top_k: int = 100
    instruction: str | None = None
    dim: int | None = None
    max_tokens: int = 8192
    precision: Precision = Precision.auto
    cache_dir: str | None = None
    num_processes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; ask for at least 1 hit.")
        if self.rerank_top_k < 1:
            raise ValueError(f"rerank_top_k is {self.rerank_top_k}; a reranker needs at least 1 document.")
        if self.num_processes < 1:
            raise ValueError(f"num_processes is {self.num_processes}; at least 1 process encodes.")
        refuse_template("instruction", self.instruction)
        if not self.query.strip():
            raise ValueError("query is empty; give the text to search for.")


@dataclass(frozen=True)
class Hit:
    """A document found by a search.

    Attributes:
        rank: from 1, after the last stage.
        score: cosine of query and document.
        id, text: of the document.
        rerank_score: the reranker's ``logit(yes) - logit(no)``; None where it did not score the document.
        found_at: rank by cosine, from 1; None without a reranker.
    """

    rank: int
    score: float
    id: str
    text: str
    rerank_score: float | None = None
    found_at: int | None = None


def search(config: SearchConfig) -> list[Hit]:
    """The ``top_k`` documents nearest to the query, best first; equal scores in corpus order.

    With a reranker the ``rerank_top_k`` nearest are sorted by its scores; the order of those after them is kept.

    Raises:
        FileNotFoundError, ValueError: a model or the corpus cannot be read (file, line and field are named).
    """
    corpus = read_texts(source_path(config.corpus), columns=config.columns)
    ids, texts = list(corpus), list(corpus.values())
    reranker = _load_reranker(config)
    QueryPrompts.of(config.model).report({"instruction": config.instruction})
    settings = EmbeddingSettings(config.max_tokens, config.precision, num_processes=config.num_processes)
    cached = CachedEmbedder(lambda: load_embedder(config.model, settings), config.cache_dir, config.model, settings)
    query = cached.embedder.encode_queries([config.query], config.instruction)
    query = truncate_and_normalize(query, config.dim)
    documents = cached.encode_documents(texts)
    if config.dim is not None:  # else they are unit vectors as they are, perhaps too many to copy
        documents = truncate_and_normalize(documents, config.dim)
    num_found = config.top_k if reranker is None else max(config.top_k, config.rerank_top_k)
    cosines, rows = top_k_documents(query, documents, num_found)
    nearest = dict(zip(rows[0].tolist(), cosines[0].tolist(), strict=True))
    if reranker is None:
        return [Hit(rank, score, ids[row], texts[row]) for rank, (row, score) in enumerate(nearest.items(), start=1)]
    scores = score_candidates(reranker, [config.query], texts, [rows], config.rerank_top_k, config.instruction)
    order = rerank(rows, scores, config.rerank_top_k)[0, : config.top_k].tolist()
    places = {row: place for place, row in enumerate(nearest, start=1)}
    return [
        Hit(rank, nearest[row], ids[row], texts[row], scores.of_query[0].get(row), places[row])
        for rank, row in enumerate(order, start=1)
    ]


def format_hits(hits: Sequence[Hit], *, width: int = 100) -> str:
    """One line for each hit: rank, cosine, id and the beginning of the text.

    With a reranker, under a heading: rank, its score, the cosine and the rank by cosine, id, text.
    """
    is_reranked = any(hit.found_at is not None for hit in hits)
    lines = ["rank  reranker  cosine  by cosine  id  text"] if is_reranked else []
    for hit in hits:
        text, text_id = visible(" ".join(hit.text[: 4 * width].split())), visible(hit.id)
        shown = text if len(text) <= width else text[: width - 3] + "..."
        if is_reranked:
            score = "-" if hit.rerank_score is None else f"{hit.rerank_score:+.4f}"
            lines.append(f"{hit.rank:>4}  {score:>8}  {hit.score:6.4f}  {hit.found_at:>9}  {text_id}  {shown}")
        else:
            lines.append(f"{hit.rank:>3}  {hit.score:.4f}  {text_id}  {shown}")
    return "\n".join(lines)


def _load_reranker(config: SearchConfig) -> TextReranker | None:
    """Loaded first, so that a wrong directory is reported before a corpus is encoded."""
    if config.reranker is None:
        return None
    reranker = TextReranker.load(config.reranker, max_tokens=config.max_tokens, precision=config.precision.value)
    reranker.report(config.reranker, {"instruction": config.instruction})
    return reranker
