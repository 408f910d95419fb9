"""Makes the next batches while the current step computes."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

BatchT = TypeVar("BatchT")


class Prefetch(Generic[BatchT]):
    """Replaces ``batch_at`` in a loop over consecutive steps; a context manager, which ends its thread.

        with Prefetch(batch_at, until=steps) as batch_of:
            for step in range(first, steps):
                batch = batch_of(step)

    One thread, not a process: a batch is a few gathers from memory maps, during which NumPy holds the interpreter's
    lock, but the step's work is in torch, which releases it.

    Args:
        batch_at: the batch of a step. A pure function of the step: it runs early, in another thread, and must not
            draw from a generator that the loop uses.
        until: the first step that is not needed.
        ahead: batches that are made in advance and held in memory, beyond the current one; 0 = none.
    """

    def __init__(self, batch_at: Callable[[int], BatchT], *, until: int, ahead: int = 2) -> None:
        self._batch_at, self._until, self._ahead = batch_at, until, ahead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[BatchT]] = deque()
        self._next: int | None = None  # the first step whose batch was not submitted yet

    def __call__(self, step: int) -> BatchT:
        """The batch of a step. The first step may be any; then they are consecutive.

        Raises:
            ValueError: the step is not the next one.
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
