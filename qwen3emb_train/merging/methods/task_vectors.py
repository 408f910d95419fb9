"""Merges task vectors (model minus base): TIES and DARE.

TIES: Yadav et al. 2023 (arXiv 2306.01708). DARE: Yu et al. 2023 (arXiv 2311.03099). Both make
task vectors sparse to reduce their interference. The paper's TIES trims over the whole model; this one, as mergekit,
over each tensor, because tensors are merged one at a time.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.merging.methods.blocks import by_blocks

Thin = Callable[[int, Tensor], Tensor]
"""(position of the model, a block of its task vector) -> the block with most entries at zero; blocks come in order."""


def ties(
    base: Float[Tensor, "*shape"],
    models: Sequence[Float[Tensor, "*shape"]],
    weights: Sequence[float],
    *,
    density: float,
    scale: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """Trim, elect sign, merge.

    Of each task vector the ``density`` largest entries are kept; each entry's sign is that of the weighted sum; the
    weighted mean of the entries that agree with it, times ``scale``, is added to the base. Float32.

    Args:
        base: the tensor of the base model.
        models: those of the fine-tuned models, of the same shape.
        weights: positive, one for each model.
        density: fraction of entries kept, 0 (exclusive) to 1. Entries equal to the smallest kept one are kept too.
        scale: lambda of arXiv 2306.01708.
    """
    thresholds = [_threshold(base, model, density) for model in models]

    def trim(position: int, block: Tensor) -> Tensor:
        return torch.where(block.abs() >= thresholds[position], block, 0.0)

    return _merge(base, models, weights, trim, scale, elect_signs=True)


def dare(
    base: Float[Tensor, "*shape"],
    models: Sequence[Float[Tensor, "*shape"]],
    weights: Sequence[float],
    *,
    density: float,
    seeds: Sequence[str],
    scale: float = 1.0,
    elect_signs: bool = False,
) -> Float[Tensor, "*shape"]:
    """Drop and rescale: each entry of a task vector is kept with probability ``density`` and divided by it.

    Args:
        base: the tensor of the base model.
        models: those of the fine-tuned models, of the same shape.
        weights: positive, one for each model.
        density: expected fraction of entries kept, 0 (exclusive) to 1.
        seeds: one text for each model; equal texts drop the same entries, on every machine and in every run.
        scale: factor of the merged task vector.
        elect_signs: merge as TIES does after its trimming; else by the weighted mean.
    """
    generators = [_generator(seed) for seed in seeds]

    def drop_and_rescale(position: int, block: Tensor) -> Tensor:
        keep = torch.rand(block.shape, generator=generators[position]) < density
        return torch.where(keep, block / density, 0.0)

    return _merge(base, models, weights, drop_and_rescale, scale, elect_signs)


def _merge(
    base: Float[Tensor, "*shape"],
    models: Sequence[Float[Tensor, "*shape"]],
    weights: Sequence[float],
    thin: Thin,
    scale: float,
    elect_signs: bool,
) -> Float[Tensor, "*shape"]:
    normalized_weights = torch.tensor([weight / sum(weights) for weight in weights]).unsqueeze(1)  # models x 1

    def merged(entries: list[Tensor], out: Tensor) -> Tensor:
        start, *others = entries
        vectors = torch.stack([thin(position, block - start) for position, block in enumerate(others)])
        weighted = vectors * normalized_weights  # models x entries
        total = weighted.sum(dim=0)
        if elect_signs:
            agree = weighted * total.sign() > 0
            total = (weighted * agree).sum(dim=0) / (agree * normalized_weights).sum(dim=0).clamp_min(1e-30)
        return torch.add(start, total, alpha=scale, out=out)

    return by_blocks(merged, [base, *models])


def _threshold(base: Float[Tensor, "*shape"], model: Float[Tensor, "*shape"], density: float) -> float:
    """The smallest magnitude among the ``density`` largest entries of the task vector."""
    if density == 1.0 or base.numel() == 0:
        return 0.0
    magnitudes = (model.float() - base.float()).abs_().reshape(-1).numpy()
    dropped = len(magnitudes) - max(1, int(density * len(magnitudes)))
    magnitudes.partition(dropped)  # in place: torch's kthvalue copies, with an int64 index for every entry
    return float(magnitudes[dropped])


def _generator(seed: str) -> torch.Generator:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little", signed=False) >> 1
    return torch.Generator().manual_seed(number)
