"""Worker processes, each with a model of its own, that process items of a parent without one.

They end with their parent, and stop when one of them fails.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

_ITEMS_WAITING = 2  # per process: enough to keep it busy, few enough for memory

Settings = TypeVar("Settings")
Item = TypeVar("Item")
Result = TypeVar("Result")

_stop: Any = None  # in a process: set when all must stop
_load: Any = None  # in a process: loads its model
_model: Any = None  # in a process, from its first item on


class ModelProcesses(Generic[Settings, Item, Result]):
    """Use it as a context manager, or ``close`` it; the processes start, and load their models, with the first items.

    Args:
        load: loads a process's model from its settings. Module-level, like ``work``: functions are pickled by name.
        work: called with the model, an item, and a function to call regularly, which raises when all must stop.
        settings: one for each process.
        threads: of torch, in each process.
    """

    def __init__(
        self,
        load: Callable[[Settings], Any],
        work: Callable[[Any, Item, Callable[[], None]], Result],
        settings: Sequence[Settings],
        threads: int,
    ) -> None:
        self._work = work
        self._num_processes = len(settings)
        # Spawned, not forked: the threads of torch and the tokenizer may hold locks that a fork would copy.
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        each = context.SimpleQueue()  # every process takes one
        for one in settings:
            each.put(one)
        self._pool = ProcessPoolExecutor(len(settings), context, _start, (self._stop, threads, load, each))

    def run(self, items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Each item's number and result, as they are done; items are read only a few ahead.

        Leaving early, by an error or not, ends the processes.

        Raises:
            BrokenProcessPool: a process was killed, most likely for lack of memory.
        """
        waiting: dict[Future[Result], int] = {}
        try:
            for number, item in enumerate(items):
                waiting[self._pool.submit(_work_on, self._work, item)] = number
                while len(waiting) >= _ITEMS_WAITING * self._num_processes:
                    yield from _done(waiting)
            while waiting:
                yield from _done(waiting)
        except BrokenProcessPool as error:
            self.close()
            raise BrokenProcessPool(
                f"{error} Perhaps the machine ran out of memory: every process holds the whole model. Lower "
                "num_processes."
            ) from error
        except BaseException:  # a GeneratorExit too
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes; unfinished items are dropped."""
        self._stop.set()  # otherwise this would wait for items that are no longer needed
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "ModelProcesses[Settings, Item, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _done(waiting: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


def _start(stop: Any, threads: int, load: Callable[[Any], Any], settings: Any) -> None:
    global _stop, _load
    _stop, _load = stop, partial(load, settings.get())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process with its parent: it must not write while the next run writes the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_on(work: Callable[[Any, Any, Callable[[], None]], Any], item: Any) -> Any:
    global _model
    if _model is None:
        _model = _load()
    return work(_model, item, _raise_if_stopped)


def _raise_if_stopped() -> None:
    if _stop.is_set():
        raise RuntimeError("stopped, because another process failed")
