"""Several processes on gloo, started without a launcher; what they return comes back in rank order."""

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(function: Callable[..., Any], num_ranks: int, *arguments: Any) -> list[Any]:
    """Runs ``function(*arguments)`` (module level, picklable) on ``num_ranks`` ranks; fails if one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_run, args=(function, num_ranks, port, directory, arguments), nprocs=num_ranks, join=True)
        return [pickle.loads((Path(directory) / str(rank)).read_bytes()) for rank in range(num_ranks)]


def _run(
    rank: int, function: Callable[..., Any], num_ranks: int, port: int, directory: str, arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    try:
        result = function(*arguments)
    finally:
        dist.destroy_process_group()
    (Path(directory) / str(rank)).write_bytes(pickle.dumps(result))
