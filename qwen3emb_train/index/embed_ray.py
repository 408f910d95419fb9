"""The program ``embed`` as a Ray Data pipeline: shard numbers flow through actors that hold the model.

Ray starts and replaces actors as nodes come and go; which actor writes a shard does not matter, because it reads the
texts itself and the shard on disk is the same. So a run that lost its cluster continues like any killed run.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qwen3emb_train.data.corpus import iterate_texts
from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.store_building import StoreBuilder
from qwen3emb_train.index.vector_shards import ShardTask, TextShard
from qwen3emb_train.index.vector_store import VectorStore

_INSTALL = "engine=ray needs Ray: pip install 'qwen3emb-train[ray]', or leave engine out."


def embed_with_ray(
    corpus: Path,
    model: str,
    directory: Path,
    config: EmbedConfig,
    progress: Callable[[int], None],
    columns: Mapping[str, str] | None = None,
) -> VectorStore:
    """As ``index.embed_texts``, on the cluster of ``RAY_ADDRESS``, or else on this machine.

    Args:
        corpus: rows of texts.
        model: model directory or hub name.
        directory: of the store.
        config: how to encode.
        progress: called with the number of texts encoded so far.
        columns: names of the corpus's columns that are not ours.

    Raises:
        ImportError: Ray is not installed.
        Others: see ``index.embed_texts``.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError(_INSTALL) from None
    corpus, directory = corpus.resolve(), directory.resolve()
    model = str(Path(model).resolve()) if Path(model).is_dir() else model  # actors run in a directory of their own
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    pairs = ((text_id, text) for _, text_id, text in iterate_texts(corpus, columns=columns))
    with StoreBuilder(directory, model, config, device="cuda" if has_gpus else "cpu") as builder:
        numbers = [{"shard": shard.number} for shard in builder.missing(pairs)]
        if numbers:
            done = 0
            shards = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
                _ShardMaker,
                fn_constructor_args=(builder.task, corpus, columns),
                batch_size=1,
                concurrency=(1, config.num_processes),
                num_cpus=config.threads_per_process or 1,
                num_gpus=int(has_gpus),
            )
            for row in shards.iter_rows():
                done += int(row["texts"])
                progress(done)
        return builder.finish()


class _ShardMaker:
    """An actor: the model, and a position in the corpus from which it continues while shards come in order."""

    def __init__(self, task: ShardTask, corpus: Path, columns: Mapping[str, str] | None) -> None:
        import torch

        torch.set_num_threads(task.config.threads_per_process or 1)
        self._task, self._corpus, self._columns, self._embedder = task, corpus, columns, task.load()
        self._restart()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shards = [self._read(int(number)) for number in batch["shard"]]
        for shard in shards:
            self._task.write(self._embedder, shard)
        return {"shard": batch["shard"], "texts": np.array([len(shard.texts) for shard in shards])}

    def _restart(self) -> None:
        self._lines: Iterator[tuple[int, str, str]] = iterate_texts(self._corpus, columns=self._columns)
        self._next = 0

    def _read(self, number: int) -> TextShard:
        if number < self._next:
            self._restart()
        size = self._task.config.rows_per_shard
        rows = list(islice(self._lines, (number - self._next) * size, (number - self._next + 1) * size))
        self._next = number + 1
        return TextShard(number, [text_id for _, text_id, _ in rows], [text for _, _, text in rows])
