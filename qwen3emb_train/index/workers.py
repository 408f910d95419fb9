"""Threads that each compute a piece of the work, instead of all threads sharing every operation.

PyTorch's own threads synchronise at the end of every operation, and spin while they wait. Where operations are many and
short, and other work needs a core, that costs several times the work itself. Pieces synchronise once, at the end.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Workers:
    """Some threads.

    Attributes:
        number: of threads.
        map: as the function of that name.
    """

    number: int
    map: Callable[..., Iterator[Any]]

    def run(self, work: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        """Calls ``work`` for every piece, and returns the results in order."""
        return list(self.map(work, *arguments))


@contextmanager
def workers(most_pieces: int) -> Iterator[Workers]:
    """Threads for a block of code: as many as PyTorch has, unless there are fewer pieces.

    Where one is enough, it is the calling thread, and PyTorch's threads share its operations as usual.
    """
    num_threads = torch.get_num_threads()
    number = min(num_threads, most_pieces)
    if number <= 1:
        yield Workers(1, map)
        return
    torch.set_num_threads(1)  # for each operation; new threads inherit it
    try:
        with ThreadPoolExecutor(number) as pool:
            yield Workers(number, pool.map)
    finally:
        torch.set_num_threads(num_threads)
