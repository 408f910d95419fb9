"""Threads that compute alone give what one would, and leave PyTorch's own as they were."""

import threading
from collections.abc import Iterator

import pytest
import torch

from qwen3emb_train.index.workers import workers


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_pieces_are_done_at_the_same_time_and_come_back_in_order() -> None:
    together = threading.Barrier(3, timeout=30)  # passes only when three threads are there

    def work(piece: int, offset: int) -> tuple[int, int]:
        together.wait()
        return piece + offset, torch.get_num_threads()

    with workers(3) as threads:
        assert threads.number == 3
        assert threads.run(work, range(6), [10] * 6) == [(10 + piece, 1) for piece in range(6)]
    assert torch.get_num_threads() == 4


def test_a_single_piece_stays_here_with_all_threads() -> None:
    with workers(1) as threads:
        assert threads.number == 1
        assert threads.run(lambda _: (threading.get_ident(), torch.get_num_threads()), [0]) == [
            (threading.get_ident(), 4)
        ]


def test_an_error_arrives_and_the_threads_are_set_back() -> None:
    with pytest.raises(ValueError, match="no good"), workers(2) as threads:
        threads.run(_fail, range(5))
    assert torch.get_num_threads() == 4


def _fail(piece: int) -> None:
    if piece == 3:
        raise ValueError("no good")
