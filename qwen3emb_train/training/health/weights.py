"""Whether weights move and adapters have an effect: users' runs have ended with exactly the base model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qwen3emb_train.training.health.gradients import NamedTensors, group_of, local

_SUMS = ("watched", "moved", "squared_start", "squared_change", "lora_b", "lora_b_set")


class WeightWatch:
    """Remembers a few elements of every trained weight, and later counts how many of them have moved.

    Every tensor gives equally many elements, or all it has: an embedding matrix, most rows of which a run may never
    meet, counts no more than a norm.

    Args:
        named_parameters: the trained ones; in a sharded engine this rank's parts.
        device: of the sums: the engine's, whatever a rank's parts lie on (it may have none, or they are offloaded).
        step: steps done so far.
        seed: of the choice.
        max_elements: remembered on this rank.
    """

    def __init__(
        self,
        named_parameters: NamedTensors,
        device: torch.device | str = "cpu",
        *,
        step: int = 0,
        seed: int = 0,
        max_elements: int = 65_536,
    ) -> None:
        parameters = [(name, _part(parameter)) for name, parameter in named_parameters]
        self._device = torch.device(device)
        parameters = [(name, flat) for name, flat in parameters if len(flat)][:max_elements]
        share = max_elements // max(len(parameters), 1)
        generator = torch.Generator().manual_seed(seed)
        self.step = step
        # With replacement: a permutation of an embedding matrix would take seconds.
        self._chosen = {
            name: torch.randint(len(flat), (min(share, len(flat)),), generator=generator).to(flat.device)
            for name, flat in parameters
        }
        self._start = {name: flat[self._chosen[name]].float() for name, flat in parameters}

    def movement(self, named_parameters: NamedTensors) -> dict[str, Tensor]:
        """What has changed since the start, as sums that add up over ranks.

        Weights that are repeated on every rank then count once for each, which leaves all shares as they are.
        """
        rows = [torch.zeros(len(_SUMS), device=self._device)]
        for name, parameter in named_parameters:
            if name not in self._chosen:
                continue
            start = self._start[name]
            now = _part(parameter)[self._chosen[name]].float()
            is_lora_b = float(group_of(name) == "lora_b")
            rows.append(
                torch.stack(
                    [
                        torch.ones_like(now).sum(),
                        (now != start).sum(),
                        start.square().sum(),
                        (now - start).square().sum(),
                        is_lora_b * torch.ones_like(now).sum(),
                        is_lora_b * (now != 0).sum(),
                    ]
                ).to(self._device)
            )
        return dict(zip(_SUMS, torch.stack(rows).sum(0), strict=True))

    def metrics(self, sums: Mapping[str, Tensor], step: int) -> dict[str, float]:
        """Metrics ``weights/`` and ``lora/`` from ``movement``'s sums (of one or all ranks); ``step``: steps done."""
        value = {name: float(total) for name, total in sums.items()}
        metrics = {"weights/steps_watched": float(step - self.step)}
        if value["watched"]:
            metrics["weights/moved_share"] = value["moved"] / value["watched"]
        if value["squared_start"]:
            metrics["weights/relative_change"] = (value["squared_change"] / value["squared_start"]) ** 0.5
        if value["lora_b"]:
            metrics["lora/b_set_share"] = value["lora_b_set"] / value["lora_b"]
        return metrics


def _part(parameter: Tensor) -> Tensor:
    """This rank's elements, flat. ZeRO-3 empties the parameter and keeps its part beside it."""
    return local(getattr(parameter, "ds_tensor", parameter)).flatten()


@torch.no_grad()
def lora_metrics(model: nn.Module) -> dict[str, float]:
    """How large all adapters' updates together are beside the weights they adapt; empty without adapters.

    ``lora/scaling`` is the largest alpha / rank, ``lora/update_norm`` the Frobenius norm of all scaling * B A, and
    ``lora/relative_update`` that norm over the base weights'. The last two are left out where a weight is sharded, the
    last one where the base is quantised.
    """
    scalings, updates, bases = [], [], []
    for layer in _adapted_layers(model):
        base = layer.get_base_layer().weight
        for adapter, scaling in layer.scaling.items():
            scalings.append(float(scaling))
            a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
            if is_whole(a) and is_whole(base):
                # ||B A||^2 = tr(A^T B^T B A): only [rank, rank] matrices are made.
                updates.append(scaling**2 * ((b.T @ b) * (a @ a.T)).sum())
        if is_whole(base) and base.is_floating_point():
            bases.append(base.float().square().sum())
    metrics = {"lora/scaling": max(scalings)} if scalings else {}
    if updates:
        metrics["lora/update_norm"] = float(torch.stack(updates).sum().clamp(min=0).sqrt())
    if updates and bases:
        metrics["lora/relative_update"] = metrics["lora/update_norm"] / float(torch.stack(bases).sum().sqrt())
    return metrics


def _adapted_layers(model: nn.Module) -> list[Any]:
    """peft's linear LoRA layers (embeddings keep theirs under other names)."""
    modules: list[Any] = list(model.modules())
    return [module for module in modules if len(getattr(module, "lora_A", ())) > 0]


def is_whole(weight: Tensor) -> bool:
    """Neither a DTensor (FSDP2) nor emptied (ZeRO-3)."""
    return not hasattr(weight, "to_local") and weight.numel() > 0
