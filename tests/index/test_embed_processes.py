"""Several processes, one of them killed: the same bytes as one process that nobody disturbed."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.models.precision import Precision
from tests.index.store_setup import contents, embed_slowly, make_texts

TEXTS = make_texts(120)
SETTINGS = {"rows_per_shard": 4, "precision": Precision.fp32, "dim": 16}


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc")
def test_a_killed_run_ends_with_the_same_bytes_whatever_the_number_of_processes(
    tmp_path: Path, tiny_qwen3: Path
) -> None:
    """SIGKILL while two workers are at it; its workers die with it; one process finishes what is missing."""
    settings = SETTINGS | {"num_processes": 2, "threads_per_process": 1}
    child = multiprocessing.get_context("spawn").Process(
        target=embed_slowly, args=(TEXTS, tiny_qwen3, tmp_path / "killed", settings)
    )
    child.start()
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("shard_*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.pid is not None
    workers = _children(child.pid)
    assert child.is_alive(), "it ended before it was killed"
    child.kill()
    child.join()
    while any(map(_is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(workers) >= 2
    assert not any(map(_is_running, workers)), "a worker outlived its parent and may still write"

    made = {path: (path / "shard.json").stat().st_ino for path in (tmp_path / "killed").glob("shard_*")}
    assert 4 <= len(made) < 30
    with pytest.raises(FileNotFoundError, match="unfinished"):
        VectorStore.open(tmp_path / "killed")
    embed_texts(TEXTS, str(tiny_qwen3), tmp_path / "killed", EmbedConfig(**SETTINGS))
    embed_texts(TEXTS, str(tiny_qwen3), tmp_path / "whole", EmbedConfig(**SETTINGS))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert {path: (path / "shard.json").stat().st_ino for path in made} == made, "finished shards were made again"


def test_a_failure_reaches_the_caller_and_ends_the_workers(tmp_path: Path, tiny_qwen3: Path) -> None:
    """The corpus breaks off: the error is its own, and what was complete by then stays."""

    def broken() -> Iterator[tuple[str, str]]:
        yield from TEXTS[:6]
        raise ValueError("corpus.jsonl:7: bad line")

    settings = EmbedConfig(**SETTINGS, num_processes=2, threads_per_process=1)
    with pytest.raises(ValueError, match=r"corpus\.jsonl:7"):
        embed_texts(broken(), str(tiny_qwen3), tmp_path / "store", settings)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "store" / "store.json").exists()


def test_threads_are_set_back(tmp_path: Path, tiny_qwen3: Path) -> None:
    import torch

    before = torch.get_num_threads()
    embed_texts(TEXTS[:4], str(tiny_qwen3), tmp_path / "a", EmbedConfig(**SETTINGS, threads_per_process=2))
    assert torch.get_num_threads() == before
    assert os.environ.get("TOKENIZERS_PARALLELISM") == "false"
