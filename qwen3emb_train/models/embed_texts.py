"""Texts to a vector store: resumable, in several processes or on several ranks, the same bytes either way.

    store = embed_texts([("d1", "A text."), ("d2", "Another.")], "outputs/mine/model", Path("outputs/vectors"))

A run that was killed continues at the first shard that is missing. A complete store of the same texts and settings is
handed back without loading the model.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qwen3emb_train.distributed import launched_rank, launched_world_size
from qwen3emb_train.models.embed_config import EmbedConfig
from qwen3emb_train.models.embedders import Embedder
from qwen3emb_train.models.store_building import StoreBuilder
from qwen3emb_train.models.vector_shards import ShardTask, TextShard
from qwen3emb_train.models.vector_store import VectorStore

_SHARDS_WAITING = 2  # for each process: enough to keep it busy, few enough for memory
_stop: Any = None  # in a worker: set when another one failed
_embedder: Embedder | None = None  # in a worker: its model


def embed_texts(
    texts: Iterable[tuple[str, str]],
    model: str,
    directory: Path,
    config: EmbedConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> VectorStore:
    """Encodes texts into the store of ``directory``; makes, continues or reuses it.

    Under ``accelerate launch`` every rank calls this with the same arguments and makes every ``world_size``-th shard;
    all return when the store is complete. The directory must be one that all ranks see. No process group is needed.

    Args:
        texts: ``(id, text)`` in row order; read once, and no more than a few shards of them held at a time.
        model: our model directory, a Sentence-Transformers directory, or a hub name.
        progress: called with the number of texts that this process has encoded so far.

    Raises:
        FileNotFoundError: no such model.
        ValueError: there are no texts; or the store holds another text (named by its id), was made with other settings,
            or has a damaged shard (named). With ``config.overwrite`` only the last of these.
        BrokenProcessPool: a worker was killed, most likely for lack of memory.
    """
    config = config or EmbedConfig()
    builder = StoreBuilder(
        directory, model, config, device=_device(config), rank=launched_rank(), num_ranks=launched_world_size()
    )
    done = 0
    for num_rows in _make_shards(builder.missing(texts), builder.task):
        done += num_rows
        if progress is not None:
            progress(done)
    return builder.finish()


def _device(config: EmbedConfig) -> str:
    """Every rank its own GPU."""
    if not torch.cuda.is_available():
        return "auto"
    if config.num_processes > 1:
        raise ValueError(
            f"num_processes={config.num_processes}: for CPUs. With GPUs: `accelerate launch --num_processes N -m "
            "qwen3emb_train embed ...`, one process for each."
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _make_shards(shards: Iterable[TextShard], task: ShardTask) -> Iterator[int]:
    """Makes the shards; yields the number of texts of each as it is done."""
    config = task.config
    if config.num_processes > 1:
        threads = config.threads_per_process or max(1, torch.get_num_threads() // config.num_processes)
        yield from _in_processes(shards, task, config.num_processes, threads)
        return
    embedder: Embedder | None = None
    for shard in shards:
        with _threads(config.threads_per_process):
            embedder = embedder or task.load()  # not before there is something to do
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


def _in_processes(shards: Iterable[TextShard], task: ShardTask, num_processes: int, threads: int) -> Iterator[int]:
    # Spawned, not forked: the threads of torch and the tokenizer may hold locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    waiting: set[Future[int]] = set()
    with ProcessPoolExecutor(num_processes, context, _start_worker, (stop, threads)) as pool:
        try:
            for shard in shards:
                waiting.add(pool.submit(_make_in_worker, task, shard))
                while len(waiting) >= _SHARDS_WAITING * num_processes:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise BrokenProcessPool(
                f"{error} Perhaps the machine ran out of memory: every process holds the whole model. Lower "
                "num_processes; the same command continues."
            ) from error
        finally:
            stop.set()  # else leaving early would wait for shards that nobody wants any more
            pool.shutdown(cancel_futures=True)


def _start_worker(stop: Any, threads: int) -> None:
    global _stop
    _stop = stop
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed run must not leave workers that write while the next run writes the same shards."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_in_worker(task: ShardTask, shard: TextShard) -> int:
    global _embedder
    _embedder = _embedder or task.load()
    task.write(_embedder, shard, _raise_if_stopped)
    return len(shard.texts)


def _raise_if_stopped() -> None:
    if _stop is not None and _stop.is_set():
        raise RuntimeError("stopped, because another process failed")
