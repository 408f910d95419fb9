"""The next batches are made while the step at hand computes."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

BatchT = TypeVar("BatchT")


class Prefetch(Generic[BatchT]):
    """Stands for ``batch_at`` in a loop over consecutive steps; a context, which ends its thread.

        with Prefetch(batch_at, until=steps) as batch_of:
            for step in range(first, steps):
                batch = batch_of(step)

    One thread, not a process: a batch is a few gathers from memory maps, which NumPy does not let go of the interpreter
    for, but a step's own work is outside the interpreter, in torch.

    Args:
        batch_at: the batch of a step. A pure function of the step: it runs in another thread, ahead of its time, and
            draws from no generator that the loop draws from, too.
        until: the first step that is not wanted.
        ahead: batches beyond the one at hand that are made early, and held in memory. 0: none.
    """

    def __init__(self, batch_at: Callable[[int], BatchT], *, until: int, ahead: int = 2) -> None:
        self._batch_at, self._until, self._ahead = batch_at, until, ahead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[BatchT]] = deque()
        self._next: int | None = None  # the first step whose batch nobody has been asked for

    def __call__(self, step: int) -> BatchT:
        """The batch of a step: the one after the last one asked for, or, at first, any.

        Raises:
            ValueError: the step is another one.
            Exception: what ``batch_at`` raised for this step.
        """
        if self._next is None:
            self._next = step
        expected = self._next - len(self._pending)
        if step != expected or step >= self._until:
            raise ValueError(f"step {step} was asked for, and {expected} of {self._until} is next: steps come in turn.")
        while self._next < min(step + 1 + self._ahead, self._until):
            self._pending.append(self._thread.submit(self._batch_at, self._next))
            self._next += 1
        return self._pending.popleft().result()

    def close(self) -> None:
        """Waits for the batch that is being made, drops the others, ends the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> "Prefetch[BatchT]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
