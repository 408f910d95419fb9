"""SIGTERM and SIGUSR1, which a scheduler sends before it ends a job, and SIGINT, which Ctrl-C sends.

While data and model are loading there is nothing to save: the program leaves at once. Once training has begun the
request is noted, and all ranks agree on the step after which they save and leave. Either way the exit code is
``EXIT_STOPPED``: not finished, the same command continues.
"""

import math
import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from qwen3emb_train.distributed import any_rank, rank, world_size

_REPORT_EVERY_S = 60.0
# A terminal sends SIGINT to the launcher as well, which passes it on to each rank: that is no second Ctrl-C.
_SAME_INTERRUPT_S = 2.0
_ARRIVALS = "qwen3emb_train/arrivals"


class StoppedBySignal(BaseException):
    """The run left because a signal asked it to; everything it had to keep is saved.

    Like KeyboardInterrupt not an ``Exception``: it may be raised anywhere in loading, and a library that turns every
    exception into its own (transformers does) must not turn this one into bad input.
    """


class StopSignal:
    """Handles the signals inside ``with``.

    Attributes:
        requested: a signal came to this rank.
        is_loading: nothing has begun yet: a signal ends the program at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.is_loading = True
        self._previous: dict[int, Any] = {}
        self._interrupted = math.inf  # when the first SIGINT came

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def wait_for_all(self) -> None:
        """A barrier without a time limit that a signal can interrupt.

        Not a collective: one fails after ``timeout_s``, however busy the rank is that the others wait for (reading a
        source, copying a model), and a rank inside it would see no signal. The launcher notices a rank that
        has died, and ends the others.
        """
        if world_size() == 1:
            return
        store = dist.distributed_c10d._get_default_store()
        own = store.add(_ARRIVALS, 1)  # no rank reaches the next barrier before all reached this one
        wanted = -(-own // world_size()) * world_size()
        reported = time.monotonic()
        while (arrived := store.add(_ARRIVALS, 0)) < wanted:
            time.sleep(0.05)
            if own % world_size() == 1 and time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                print(f"rank {rank()}: waiting for {wanted - arrived} of {world_size()} ranks", flush=True)

    def only_note(self) -> None:
        """From now on a signal only sets ``requested``, which the loop checks."""
        self.is_loading = False

    def on_any_rank(self, device: torch.device | str = "cpu") -> bool:
        """Whether a signal came to any rank; every rank gets the same answer."""
        return any_rank(self.requested, device)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            self._interrupt()
        if self.is_loading:
            raise StoppedBySignal(
                f"stopped by {signal.Signals(number).name} while loading: nothing had begun. The same command starts "
                "again."
            )

    def _interrupt(self) -> None:
        """Says what happens now; a second Ctrl-C ends the program at once."""
        now = time.monotonic()
        if now - self._interrupted > _SAME_INTERRUPT_S:
            raise KeyboardInterrupt
        if self._interrupted == math.inf:
            self._interrupted = now
            if not self.is_loading and rank() == 0:
                # Not print: the handler may have interrupted one.
                os.write(2, b"\nCtrl-C: saving after this step; once more ends at once, without saving\n")

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
