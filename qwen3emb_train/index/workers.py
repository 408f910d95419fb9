"""Threads that compute alone, each a piece of the work, in place of all threads on one operation after the other.

PyTorch's own threads wait for one another at the end of every operation, and spin while they wait. Where operations
are short and many, and anything else wants a core, that costs several times the work itself. Pieces wait once, at
their end.
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

    Where one is enough, it is this very thread, and PyTorch's threads share its operations as ever.
    """
    num_threads = torch.get_num_threads()
    number = min(num_threads, most_pieces)
    if number <= 1:
        yield Workers(1, map)
        return
    torch.set_num_threads(1)  # for each operation; new threads, too, go by it
    try:
        with ThreadPoolExecutor(number) as pool:
            yield Workers(number, pool.map)
    finally:
        torch.set_num_threads(num_threads)
