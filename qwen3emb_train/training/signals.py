"""SIGTERM and SIGUSR1: what a scheduler sends before it takes the machine away.

While data and model are loading there is nothing to save: the program leaves at once. Once training has begun the
request is noted, and all ranks agree on the step after which they save and leave. Either way the exit code is
``EXIT_STOPPED``: not finished, the same command continues.
"""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from qwen3emb_train.distributed import any_rank, world_size

# sysexits.h EX_TEMPFAIL: "try again". Neither success (the next stage must not start) nor a failure to report.
EXIT_STOPPED = 75


class StoppedBySignal(BaseException):
    """The run left because a signal asked it to; everything it had to keep is saved.

    Like KeyboardInterrupt not an ``Exception``: it is raised wherever loading stands, and a library that turns every
    exception into its own (transformers does) must not turn this one into bad input.
    """


class StopSignal:
    """Listens from its creation on; a context.

    Attributes:
        requested: a signal came to this rank.
        is_loading: nothing has begun yet: a signal ends the program at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.is_loading = True
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def wait_for_all(self) -> None:
        """A barrier that a signal can interrupt: a rank that waits inside a collective would not see it."""
        if world_size() == 1:
            return
        work = dist.barrier(async_op=True)
        while not work.is_completed():
            time.sleep(0.05)
        work.wait()

    def only_note(self) -> None:
        """From now on a signal is a request that the loop answers."""
        self.is_loading = False

    def on_any_rank(self, device: torch.device | str = "cpu") -> bool:
        """Whether a signal came to any rank; every rank gets the same answer."""
        return any_rank(self.requested, device)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.is_loading:
            raise StoppedBySignal(
                f"stopped by {signal.Signals(number).name} while loading: nothing had begun. The same command starts "
                "again."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is StoppedBySignal:
            # The process is about to leave with its own exit code. A launcher that sees another rank leave sends this
            # one a second signal, which must not kill it half-way: from now on signals are noted and nothing else.
            self.is_loading = False
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
