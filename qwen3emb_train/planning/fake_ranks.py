"""Fake ranks: torch's fake process group completes every collective immediately with this rank's own values."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def fake_ranks(num_ranks: int) -> Iterator[None]:
    """This process as rank 0 of ``num_ranks``.

    Raises:
        RuntimeError: it is already part of a real group.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("A dry run needs a process without a process group: start it without a launcher.")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
