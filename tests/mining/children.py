"""Mining in child processes that can be killed. Forked, so that nothing is imported again: one thread each."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qwen3emb_train.mining import negatives
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.negatives import mine_negatives
from qwen3emb_train.mining.search.blocks import QueryBlocks


def run_killed(config: MiningConfig, after_blocks: int) -> None:
    """Mines in a child that is killed in the middle of writing the next block."""

    def mine() -> None:
        write, written = QueryBlocks._write, []

        def write_some(self: QueryBlocks, number: int, tensors: dict[str, torch.Tensor]) -> None:
            if len(written) == after_blocks:
                self.file(number).with_suffix(".writing").write_bytes(b"half a bl")
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, number, tensors)
            written.append(number)

        QueryBlocks._write = write_some  # type: ignore[method-assign]
        mine_negatives(config)

    assert os.WTERMSIG(_wait(_fork(mine))) == signal.SIGKILL


_TIME_LIMIT = 120  # seconds, after which a child that hangs ends by a signal


def run_ranks(config: MiningConfig, num_ranks: int, late: int | None = None) -> dict[str, list[list[int]]]:
    """Mines in several children as a launcher would start them; which blocks each rank made, by kind of work.

    Args:
        late: a rank that begins when the others could be done.
    """
    notes = Path(config.output_dir).parent

    def mine(rank: int) -> Callable[[], None]:
        def run() -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            write = QueryBlocks._write

            def write_and_note(self: QueryBlocks, number: int, tensors: dict[str, torch.Tensor]) -> None:
                with (notes / f"rank_{rank}").open("a") as file:
                    file.write(f"{self.directory.name.split('_')[2]} {number}\n")
                write(self, number, tensors)

            def embed_late(*arguments: Any) -> Any:
                time.sleep(1.5)
                return embed(*arguments)

            QueryBlocks._write = write_and_note  # type: ignore[method-assign]
            embed = negatives.embed_problem
            if rank == late:
                negatives.embed_problem = embed_late
            mine_negatives(config)

        return run

    children = [_fork(mine(rank)) for rank in range(num_ranks)]
    assert [_wait(child) for child in children] == [0] * num_ranks
    made: dict[str, list[list[int]]] = {}
    for rank in range(num_ranks):
        note = notes / f"rank_{rank}"
        for line in note.read_text().splitlines() if note.exists() else ():
            kind, number = line.split()
            made.setdefault(kind, [[] for _ in range(num_ranks)])[rank].append(int(number))
    return made


def _fork(function: Callable[[], None]) -> int:
    if child := os.fork():
        return child
    status = 1
    signal.alarm(_TIME_LIMIT)
    try:
        function()
        status = 0
    finally:
        os._exit(status)  # neither pytest's cleanup nor its report


def _wait(child: int) -> int:
    return os.waitpid(child, 0)[1]
