"""Work in blocks of queries, each written to a file: resumable, and shared by ranks.

Rank ``r`` of ``W`` does blocks ``r, r + W, ...``; the files in the directory show what is left to do, so ranks need no
messages. The directory is named by a digest of all that the result depends on, so existing files can be used.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from qwen3emb_train.distributed import launched_rank, launched_world_size
from qwen3emb_train.lineage import value_digest

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 60
logger = logging.getLogger(__name__)


class QueryBlocks:
    """Rows of tensors, one row for each query, in files of ``queries_per_block`` rows.

    Args:
        directory: of the files.
        num_queries: rows in all.
        queries_per_block: rows of a file.
    """

    def __init__(self, directory: Path, num_queries: int, queries_per_block: int) -> None:
        self.directory = directory
        self._num_queries = num_queries
        self._queries_per_block = queries_per_block
        self._read = lru_cache(2)(self._load)  # examples come almost in the order of their queries

    @property
    def num_blocks(self) -> int:
        return -(-self._num_queries // self._queries_per_block)

    def of(self, query: int) -> dict[str, Shaped[np.ndarray, " columns"]]:
        """The query's row of every tensor; as arrays, whose rows are read ten times faster than a tensor's."""
        number, row = divmod(query, self._queries_per_block)
        return {name: array[row] for name, array in self._read(number).items()}

    def fill(self, work: Callable[[range], dict[str, Tensor]]) -> None:
        """Does this rank's missing blocks; the first rank also waits for those of the others.

        Args:
            work: queries of a block -> its tensors, with a row for each.
        """
        for number in range(launched_rank(), self.num_blocks, launched_world_size()):
            if not self.file(number).is_file():
                first = number * self._queries_per_block
                self._write(number, work(range(first, min(first + self._queries_per_block, self._num_queries))))
        if launched_rank() == 0:
            self._wait()

    def file(self, number: int) -> Path:
        return self.directory / f"block_{number:06d}.safetensors"

    def _write(self, number: int, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.file(number).with_suffix(".writing")
        with temporary.open("wb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.file(number))

    def _load(self, number: int) -> dict[str, Shaped[np.ndarray, "queries columns"]]:
        from safetensors.numpy import load_file

        return load_file(self.file(number))

    def _wait(self) -> None:
        reported = time.monotonic()
        while missing := [number for number in range(self.num_blocks) if not self.file(number).is_file()]:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                logger.warning("%s: still waiting for %d blocks of other ranks", self.directory, len(missing))


def blocks_for(work_dir: Path, kind: str, num_queries: int, queries_per_block: int, depends_on: Any) -> QueryBlocks:
    """The blocks of one kind of work.

    Args:
        work_dir: parent of their directory.
        kind: name of the work.
        num_queries, queries_per_block: see ``QueryBlocks``.
        depends_on: everything that the result depends on, as JSON values.
    """
    name = f"{kind}_{value_digest([depends_on, num_queries, queries_per_block])[:16]}"
    return QueryBlocks(work_dir / name, num_queries, queries_per_block)
