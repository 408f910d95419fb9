"""Several processes, each with a model of its own, that work on items from one that has none.

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

_ITEMS_WAITING = 2  # for each process: enough to keep it busy, few enough for memory

Settings = TypeVar("Settings")
Item = TypeVar("Item")
Result = TypeVar("Result")

_stop: Any = None  # in a process: set when the others shall end
_load: Any = None  # in a process: makes its model
_model: Any = None  # in a process, once it has something to do


class ModelProcesses(Generic[Settings, Item, Result]):
    """Use it as a context, or ``close`` it; the processes start with the first items and load their models then.

    Args:
        load: makes a process's model from its settings. A function of a module, as ``work`` is: it is sent by name.
        work: is called with the model, an item, and a function to call now and then that raises when all shall stop.
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
        """Each item's number and result, as they are done; no more items are read than the processes can do soon.

        Whoever leaves early, by an error or not, ends the processes.

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
        """Ends the processes; what they have begun is dropped."""
        self._stop.set()  # else this would wait for items that nobody wants any more
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
    """A killed run must not leave processes that write while the next run writes the same."""
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
