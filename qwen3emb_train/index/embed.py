"""A corpus file to a vector store: the program ``embed``."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from qwen3emb_train import lineage
from qwen3emb_train.data.corpus import duplicate_id, iterate_texts
from qwen3emb_train.data.readers import ColumnsConfig
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.data.tokenization import text_hash
from qwen3emb_train.distributed import launched_rank
from qwen3emb_train.index.embed_config import EmbedConfig, TextRole
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.index.vector_store import STORE_FILE, VectorStore

PROGRAM = "embed"
_HOW = ("output_dir", "engine", "num_processes", "overwrite", "verify")  # they do not change the result
_WRITTEN = (STORE_FILE, "shard_*", lineage.RUN_FILE)


class EmbedEngine(str, Enum):
    """``processes``: this machine's, or the ranks of a launcher. ``ray``: a Ray Data pipeline, for elastic clusters."""

    processes = "processes"
    ray = "ray"


@dataclass
class EmbedCorpusConfig(ColumnsConfig, EmbedConfig):
    """Which corpus, by which model, and how.

    Attributes:
        model: our model directory, a Sentence-Transformers directory, or a hub name.
        corpus: rows with ``text``, optional ``title`` and ``_id``; a BEIR corpus.jsonl is one, its queries.jsonl too.
        output_dir: the vector store.
        engine: what runs the encoding. With ``ray`` the corpus and the store must be visible to all nodes, and
            ``num_processes`` is the maximum number of actors.
    """

    model: str = "???"
    corpus: str = "???"
    output_dir: str = "???"
    engine: EmbedEngine = EmbedEngine.processes

    def __post_init__(self) -> None:
        ColumnsConfig.__post_init__(self)
        EmbedConfig.__post_init__(self)


def embed(config: EmbedCorpusConfig) -> Path:
    """Embeds a corpus; returns ``output_dir``. A run that was killed continues; a finished one is checked and kept.

    Raises:
        FileNotFoundError: no such corpus or model.
        ValueError: a bad line or a duplicate id in the corpus (named); a store of other texts or settings, or a damaged
            one (see ``index.embed_texts``).
        ImportError: Ray, or Sentence-Transformers, is needed and not installed.
    """
    corpus, output = source_path(config.corpus), Path(config.output_dir)
    lineage.require_apart(output, _inputs(config))
    lineage.require_claimable(output, PROGRAM, _WRITTEN)
    num_texts = check_corpus(corpus, config.columns, are_queries=config.role is TextRole.query)
    progress = Progress(num_texts)
    if launched_rank() == 0:
        if config.role is TextRole.query:
            QueryPrompts.of(config.model).report({"instruction": config.instruction})
        lineage.claim(output, PROGRAM)
    if config.engine is EmbedEngine.ray:
        from qwen3emb_train.index.embed_ray import embed_with_ray

        store = embed_with_ray(corpus, config.model, output, config, progress, config.columns)
    else:
        store = embed_texts(read_pairs(corpus, config.columns), config.model, output, config, progress)
    if launched_rank() == 0:
        _write_record(config, store)
    return output


def read_pairs(corpus: Path, columns: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Ids and texts, one after the other."""
    return ((text_id, text) for _, text_id, text in iterate_texts(corpus, columns=columns))


def check_corpus(corpus: Path, columns: Mapping[str, str] | None = None, *, are_queries: bool = False) -> int:
    """Reads all lines once, so that a bad one at the end is found before the first is encoded.

    Ids are compared by 63-bit hash: 8 bytes in memory, and no false alarm, for equal hashes are compared as strings.

    Args:
        corpus, columns, are_queries: see ``data.corpus.read_texts``.

    Returns:
        The number of texts.

    Raises:
        FileNotFoundError, ValueError: see ``data.corpus.iterate_texts``; an id that occurs twice.
    """
    lines = iterate_texts(corpus, are_queries=are_queries, columns=columns)
    hashes = np.fromiter((text_hash(text_id) for _, text_id, _ in lines), dtype=np.int64)
    distinct, counts = np.unique(hashes, return_counts=True)
    if len(distinct) < len(hashes):
        suspects = set(distinct[counts > 1].tolist())
        seen: set[str] = set()
        for line, text_id, _ in iterate_texts(corpus, columns=columns):
            if text_hash(text_id) in suspects:
                if text_id in seen:
                    raise duplicate_id(corpus, line, text_id)
                seen.add(text_id)
    return len(hashes)


class Progress:
    """Prints progress regularly; only on the first rank, whose part of the work is like the others'.

    Args:
        num_texts: of the corpus.
        interval: seconds between two lines.
    """

    def __init__(self, num_texts: int, interval: float = 10.0) -> None:
        self._num_texts, self._interval = num_texts, interval
        self._started = self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if launched_rank() == 0 and now - self._said >= self._interval:
            self._said = now
            rate = done / (now - self._started)
            print(f"embedded {done:,} texts now, of {self._num_texts:,} in the corpus ({rate:,.1f}/s)", flush=True)


def _inputs(config: EmbedCorpusConfig) -> dict[str, Path]:
    inputs = {"corpus": source_path(config.corpus)}
    if Path(config.model).is_dir():
        inputs["model"] = Path(config.model)
    return inputs


def _write_record(config: EmbedCorpusConfig, store: VectorStore) -> None:
    settings, inputs = lineage.settings_of(config, _HOW), _inputs(config)
    if not lineage.is_up_to_date(store.directory, PROGRAM, settings, inputs):
        record = lineage.new_record(
            PROGRAM, settings, inputs, num_rows=store.num_rows, dim=store.dim, fingerprint=store.fingerprint
        )
        lineage.write_record(store.directory, record)
