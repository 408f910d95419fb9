"""Prefetched batches are the same objects in the same order, made meanwhile; errors come at their step."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from qwen3emb_train.training.prefetch import Prefetch
from qwen3emb_train.training.signals import StopSignal

SOON = 30.0  # seconds; a wait that lasts so long has failed


class Source:
    """Makes batches and notes which ones; a step's batch can be held back.

    Attributes:
        made: a batch for each step that was made.
        entered: set when making a step's batch begins.
        finished: set when it is made.
        gates: what a step's batch waits for.
    """

    def __init__(self, bad_steps: tuple[int, ...] = ()) -> None:
        self.made: dict[int, list[int]] = {}
        self.order: list[int] = []
        self.entered = [threading.Event() for _ in range(20)]
        self.finished = [threading.Event() for _ in range(20)]
        self.gates: dict[int, threading.Event] = {}
        self._bad_steps = bad_steps

    def __call__(self, step: int) -> list[int]:
        self.entered[step].set()
        self.order.append(step)
        if step in self.gates:
            assert self.gates[step].wait(SOON)
        if step in self._bad_steps:
            raise KeyError(f"row of step {step}")
        self.made[step] = [step]
        self.finished[step].set()
        return self.made[step]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_the_batches_are_those_of_the_function_in_its_order(ahead: int) -> None:
    source = Source()
    with Prefetch(source, until=10, ahead=ahead) as batch_of:
        batches = [batch_of(step) for step in range(3, 10)]
    assert all(batch is source.made[step] for step, batch in zip(range(3, 10), batches, strict=True))
    assert source.order == [*range(3, 10)], "each once, none beyond the end"


def test_the_next_batches_are_made_while_a_step_computes() -> None:
    """Events, not times: the step at hand waits until the next two are there, and the third waits for the step."""
    source = Source()
    with Prefetch(source, until=10, ahead=2) as batch_of:
        for step in range(7):
            batch_of(step)
            assert source.finished[step + 1].wait(SOON)
            assert source.finished[step + 2].wait(SOON)
            assert not source.entered[step + 3].is_set()


def test_a_slow_batch_is_begun_before_the_step_ahead_of_it_has_ended() -> None:
    source = Source()
    source.gates[1] = threading.Event()
    with Prefetch(source, until=2, ahead=1) as batch_of:
        batch_of(0)
        assert source.entered[1].wait(SOON)  # "computing" step 0, while batch 1 is in the making
        assert not source.finished[1].is_set()
        source.gates[1].set()
        assert batch_of(1) == [1]


def test_without_ahead_nothing_is_made_early() -> None:
    source = Source()
    with Prefetch(source, until=5, ahead=0) as batch_of:
        for step in range(5):
            batch_of(step)
            assert source.order == [*range(step + 1)]


def test_an_error_is_raised_at_the_step_it_belongs_to() -> None:
    source = Source(bad_steps=(2,))
    with Prefetch(source, until=5, ahead=2) as batch_of:
        assert batch_of(0) == [0]
        assert source.entered[2].wait(SOON)  # it has failed, or is about to: the steps before it know nothing of it
        assert batch_of(1) == [1]
        with pytest.raises(KeyError, match="row of step 2"):
            batch_of(2)
        assert batch_of(3) == [3]


def test_an_error_of_a_step_never_asked_for_is_none() -> None:
    source = Source(bad_steps=(1,))
    with Prefetch(source, until=5) as batch_of:
        batch_of(0)
        assert source.entered[1].wait(SOON)


def test_the_thread_ends_when_the_loop_fails() -> None:
    """The batch in the making is waited for, those behind it are not made."""
    source = Source()
    source.gates[1] = threading.Event()
    with pytest.raises(ZeroDivisionError), Prefetch(source, until=10, ahead=5) as batch_of:  # noqa: PT012
        batch_of(0)
        assert source.entered[1].wait(SOON)
        threading.Timer(0.05, source.gates[1].set).start()
        raise ZeroDivisionError
    assert source.order == [0, 1]


def test_a_stop_signal_is_noted_while_the_loop_waits_for_a_batch() -> None:
    """Signals are the main thread's; it is inside ``batch_of`` when this one comes, and leaves after the step."""
    source = Source()
    source.gates[1] = threading.Event()
    done = []

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        source.gates[1].set()

    with StopSignal() as stop, Prefetch(source, until=10) as batch_of:
        stop.only_note()
        for step in range(10):
            if step == 1:
                threading.Timer(0.05, interrupt).start()
            batch_of(step)
            done.append(step)
            if stop.requested:
                break
    assert done == [0, 1]


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_steps_come_in_turn(wrong: int) -> None:
    with Prefetch(Source(), until=10) as batch_of:
        batch_of(0)
        batch_of(1)
        with pytest.raises(ValueError, match="in turn"):
            batch_of(wrong)
        assert batch_of(2) == [2], "nothing was lost by asking"


def test_no_step_beyond_the_last() -> None:
    with Prefetch(Source(), until=1) as batch_of:
        batch_of(0)
        with pytest.raises(ValueError, match="step 1"):
            batch_of(1)
