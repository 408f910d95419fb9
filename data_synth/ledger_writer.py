"""Group commits: the records of many items within some milliseconds are one transaction with one fsync."""

import asyncio

from data_synth.ledger import Ledger
from data_synth.ledger_database import End, RecordedCall
from data_synth.work import WorkItem


class LedgerWriter:
    """Collects records and writes them to a ledger in batches; lives in one event loop.

    Args:
        ledger: opened for writing.
        commit_seconds: how long a batch collects records; only the items that end wait for it.
    """

    def __init__(self, ledger: Ledger, *, commit_seconds: float = 0.05) -> None:
        self._ledger = ledger
        self._commit_seconds = commit_seconds
        self._calls: list[RecordedCall] = []
        self._ends: list[tuple[WorkItem, End]] = []
        self._committed: asyncio.Future[None] | None = None  # of the batch being collected
        self._committing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def record_call(self, call: RecordedCall) -> None:
        """Adds a reply to the next batch.

        Raises:
            OSError: an earlier batch could not be written (the disk is full, ...).
        """
        self._calls.append(call)
        self._batch()

    async def record_end(self, item: WorkItem, end: End) -> None:
        """Returns when the item's end and the calls recorded before are on disk.

        Raises:
            OSError: it could not be written (the disk is full, ...).
        """
        self._ends.append((item, end))
        await asyncio.shield(self._batch())

    async def close(self) -> None:
        """Writes the remaining records. The ledger stays open."""
        self._commit_seconds = 0.0
        while self._committing is not None:
            await asyncio.shield(self._committing)

    def _batch(self) -> asyncio.Future[None]:
        if self._failure is not None:
            raise self._failure
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            # Retrieved here, as nothing awaits a batch without ends.
            self._committed.add_done_callback(lambda future: future.exception())
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_batches())
        return self._committed

    async def _commit_batches(self) -> None:
        while self._committed is not None:
            await asyncio.sleep(self._commit_seconds)
            calls, ends, committed = self._calls, self._ends, self._committed
            self._calls, self._ends, self._committed = [], [], None
            try:
                await asyncio.to_thread(self._ledger.write, calls, ends)
            except Exception as error:
                self._failure = error
                committed.set_exception(error)
                if self._committed is not None:
                    self._committed.set_exception(error)
                    self._committed = None
            else:
                committed.set_result(None)
        self._committing = None
