"""Random tensors with a common part, as checkpoints of one run have it."""

import torch


def random_tensors(seed: int, count: int, shape: tuple[int, ...] = (7, 5), common: float = 0.5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(shape, generator=generator)
    return [common * shared + torch.randn(shape, generator=generator) for _ in range(count)]
