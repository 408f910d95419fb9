"""Texts to a vector store: resumable, in several processes or on several ranks, the same bytes either way.

    store = embed_texts([("d1", "A text."), ("d2", "Another.")], "outputs/mine/model", Path("outputs/vectors"))

A killed run continues at the first missing shard. A complete store of the same texts and settings is returned without
loading the model.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from qwen3emb_train.distributed import launched_rank, launched_world_size
from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.embedders import Embedder
from qwen3emb_train.index.processes import ModelProcesses
from qwen3emb_train.index.store_building import StoreBuilder
from qwen3emb_train.index.vector_shards import ShardTask, TextShard
from qwen3emb_train.index.vector_store import VectorStore


def embed_texts(
    texts: Iterable[tuple[str, str]],
    model: str,
    directory: Path,
    config: EmbedConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> VectorStore:
    """Encodes texts into the store of ``directory``; writes, continues or reuses it.

    Under ``accelerate launch`` every rank calls this with the same arguments and writes every ``world_size``-th shard;
    all return when the store is complete. All ranks must see the directory. No process group is needed.

    Args:
        texts: ``(id, text)`` in row order; read once, at most a few shards of them in memory.
        model: our model directory, a Sentence-Transformers directory, or a hub name.
        directory: of the store.
        config: how to encode; None: the defaults.
        progress: called with the number of texts that this process has encoded so far.

    Raises:
        FileNotFoundError: no such model.
        ValueError: there are no texts; or the store has another text (named by its id) or other settings, or a damaged
            shard (named). With ``config.overwrite`` only the last of these.
        BrokenProcessPool: a worker was killed, most likely for lack of memory.
    """
    config = config or EmbedConfig()
    done = 0
    with StoreBuilder(
        directory, model, config, device=_device(config), rank=launched_rank(), num_ranks=launched_world_size()
    ) as builder:
        for num_rows in _make_shards(builder.missing(texts), builder.task):
            done += num_rows
            if progress is not None:
                progress(done)
        return builder.finish()


def _device(config: EmbedConfig) -> str:
    """The rank's own GPU."""
    if not torch.cuda.is_available():
        return "auto"
    if config.num_processes > 1:
        raise ValueError(
            f"num_processes={config.num_processes}: for CPUs. With GPUs: `accelerate launch --num_processes N -m "
            "qwen3emb_train embed ...`, one process for each."
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _make_shards(shards: Iterable[TextShard], task: ShardTask) -> Iterator[int]:
    """Writes the shards; yields the number of texts of each as it is done."""
    config = task.config
    if config.num_processes > 1:
        threads = config.threads_per_process or max(1, torch.get_num_threads() // config.num_processes)
        with ModelProcesses(ShardTask.load, partial(_make, task), [task] * config.num_processes, threads) as processes:
            for _, num_rows in processes.run(shards):
                yield num_rows
        return
    embedder: Embedder | None = None
    for shard in shards:
        with _threads(config.threads_per_process):
            embedder = embedder or task.load()  # only when a shard is missing
            task.write(embedder, shard)
        yield len(shard.texts)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make(task: ShardTask, embedder: Embedder, shard: TextShard, raise_if_stopped: Callable[[], None]) -> int:
    task.write(embedder, shard, raise_if_stopped)
    return len(shard.texts)
