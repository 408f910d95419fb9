"""Gradient norms by part of the network, from (name, gradient) alone: every engine can give those."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qwen3emb_train.training.health.vectors import sum_over_ranks

NamedTensors = Iterable[tuple[str, Tensor]]

# The first that fits decides: q_norm lies in self_attn but is a norm, an adapter of o_proj is an adapter.
_PATTERNS = {
    "lora_a": re.compile(r"lora_(embedding_)?A\b"),
    "lora_b": re.compile(r"lora_(embedding_)?B\b"),
    "norms": re.compile(r"norm|\bln_"),
    "embeddings": re.compile(r"embed|\bwte\b"),
    "attention": re.compile(r"attn|attention"),
    "mlp": re.compile(r"mlp|feed_forward|experts"),
    "other": re.compile(""),
}
_LAYER = re.compile(r"\b(?:layers|h|blocks)\.(\d+)\.")
_THIRDS = ("first_layers", "middle_layers", "last_layers")


def group_of(name: str) -> str:
    """Which kind of weight a parameter is: lora_a, lora_b, norms, embeddings, attention, mlp or other."""
    return next(group for group, pattern in _PATTERNS.items() if pattern.search(name))


def gradient_norms_by_group(
    named_gradients: NamedTensors, num_layers: int, device: torch.device | str = "cpu", *, sharded: bool = False
) -> dict[str, float]:
    """L2 norms ``gradient_norm/<group>`` of the kinds that occur, and of the thirds of the network's depth.

    Args:
        named_gradients: parameters that have a gradient; any prefix before ``layers.`` will do.
        num_layers: of the network.
        device: of the sums: the engine's, also on a rank without gradients.
        sharded: every rank gives its part of each gradient (FSDP2, ZeRO), and squares are added over ranks: collective.
            Ranks may name different parameters.
    """
    members: dict[str, list[Tensor]] = {group: [] for group in (*_PATTERNS, *_THIRDS)}
    for name, gradient in named_gradients:
        here = local(gradient)
        norm = torch.linalg.vector_norm(here, dtype=torch.float32)
        members[group_of(name)].append(norm)
        if found := _LAYER.search(name):
            members[_THIRDS[int(found.group(1)) * 3 // num_layers]].append(norm)
    # The number of gradients goes with each norm: a gradient of 0 is reported, an absent one is left out.
    sums = torch.zeros(len(members), 2, device=device)
    for row, norms in zip(sums, members.values(), strict=True):
        if norms:
            row[0], row[1] = torch.stack(norms).square().sum().to(device), len(norms)
    if sharded:
        sums = sum_over_ranks({"sums": sums})["sums"]
    return {
        f"gradient_norm/{group}": square**0.5
        for group, (square, count) in zip(members, sums.tolist(), strict=True)
        if count
    }


def scaled_to(norms: Mapping[str, float], total: float) -> dict[str, float]:
    """The same norms, scaled so that the kinds add up to ``total``, the gradient's norm before clipping.

    That undoes what clipping has done meanwhile, and the repetition of shards in hybrid sharding.
    """
    measured = sum(norms.get(f"gradient_norm/{group}", 0.0) ** 2 for group in _PATTERNS) ** 0.5
    return {name: norm * total / measured if measured else norm for name, norm in norms.items()}


def non_finite_groups(named_gradients: NamedTensors) -> list[str]:
    """The kinds of weights whose gradient on this rank holds NaN or infinity."""
    return sorted({group_of(name) for name, gradient in named_gradients if not local(gradient).isfinite().all()})


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (FSDP2's DTensor); any other as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()
