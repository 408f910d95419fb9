"""Mining in child processes that can be killed. Forked, so that nothing is imported again: one thread each."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

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


def run_ranks(config: MiningConfig, num_ranks: int) -> dict[str, list[list[int]]]:
    """Mines in several children as a launcher would start them; which blocks each rank made, by kind of work."""
    notes = Path(config.output_dir).parent

    def mine(rank: int) -> Callable[[], None]:
        def run() -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            write = QueryBlocks._write

            def write_and_note(self: QueryBlocks, number: int, tensors: dict[str, torch.Tensor]) -> None:
                with (notes / f"rank_{rank}").open("a") as file:
                    file.write(f"{self.directory.name.split('_')[2]} {number}\n")
                write(self, number, tensors)

            QueryBlocks._write = write_and_note  # type: ignore[method-assign]
            mine_negatives(config)

        return run

    children = [_fork(mine(rank)) for rank in range(num_ranks)]
    assert [_wait(child) for child in children] == [0] * num_ranks
    made: dict[str, list[list[int]]] = {}
    for rank in range(num_ranks):
        for line in (notes / f"rank_{rank}").read_text().splitlines():
            kind, number = line.split()
            made.setdefault(kind, [[] for _ in range(num_ranks)])[rank].append(int(number))
    return made


def _fork(function: Callable[[], None]) -> int:
    if child := os.fork():
        return child
    status = 1
    try:
        function()
        status = 0
    finally:
        os._exit(status)  # neither pytest's cleanup nor its report


def _wait(child: int) -> int:
    return os.waitpid(child, 0)[1]
