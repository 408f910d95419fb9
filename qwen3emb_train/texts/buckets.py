"""Records on disk in buckets that fit into memory: what is equal in a key stands in one bucket."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int


class Buckets:
    """Files of records, removed at the end of the ``with`` block.

    Args:
        directory: made anew; what an interrupted run left there is removed.
        dtype: of a record.
        num: of buckets.
    """

    def __init__(self, directory: Path, dtype: np.dtype[Any], num: int) -> None:
        self._directory, self._dtype, self._num = directory, dtype, num
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    def add(self, records: np.ndarray, buckets: Int[np.ndarray, " records"]) -> None:
        """Appends records.

        Args:
            records: of ``dtype``.
            buckets: the bucket of each.
        """
        order = np.argsort(buckets, kind="stable")
        ends = np.searchsorted(buckets[order], np.arange(self._num + 1))
        for bucket in range(self._num):
            if ends[bucket] < ends[bucket + 1]:
                with (self._directory / f"{bucket:06d}").open("ab") as file:
                    file.write(records[order[ends[bucket] : ends[bucket + 1]]].tobytes())

    def read(self) -> Iterator[np.ndarray]:
        """Each bucket's records, one bucket after another."""
        for bucket in range(self._num):
            path = self._directory / f"{bucket:06d}"
            if path.is_file():
                yield np.fromfile(path, self._dtype)

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory)


def read_blocks(path: Path, dtype: np.dtype[Any], num: int, width: int = 1) -> Iterator[np.ndarray]:
    """The records of a file, ``num`` at a time.

    Args:
        path: of the file.
        dtype: of a value.
        num: records in a block.
        width: values in a record; above 1 the blocks have two dimensions.
    """
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype, num * width)):
            yield block.reshape(-1, width) if width > 1 else block
