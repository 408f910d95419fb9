"""AdamW and the learning rate as a pure function of the step.

The schedule has no state: nothing has to be saved or resumed, and it cannot be stepped once per rank by mistake
(accelerate steps a prepared scheduler ``world_size`` times: its issue 2165).
"""

import math
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import nn


@dataclass
class OptimizerConfig:
    """AdamW on float32 master weights.

    Attributes:
        lr: peak learning rate. Not published for Qwen3-Embedding; others use 2e-6 .. 3e-5 for full fine-tuning of
            4B-8B models, about 1e-4 for LoRA.
        weight_decay: on matrices only; norms and biases are never decayed.
        betas: decay rates of Adam's two moments.
        eps: added to the root of Adam's second moment.
    """

    lr: float = 2e-5
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr is {self.lr}; it must be positive.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas is {self.betas}; give two numbers in [0, 1).")


class ScheduleKind(str, Enum):
    """What happens after the warm-up; ``wsd``: warm-up, stable, then linear decay in the last part."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"


@dataclass
class ScheduleConfig:
    """The learning rate over the optimizer steps.

    Attributes:
        kind: its form.
        warmup_ratio: share of all steps in which lr rises linearly from 0.
        warmup_steps: the same in steps; overrides the ratio.
        min_lr_ratio: lr at the last step, as a share of the peak.
        decay_ratio: wsd only: share of all steps for the final decay.
    """

    kind: ScheduleKind = ScheduleKind.cosine
    warmup_ratio: float = 0.05
    warmup_steps: int | None = None
    min_lr_ratio: float = 0.1
    decay_ratio: float = 0.2

    def __post_init__(self) -> None:
        for name in ("warmup_ratio", "min_lr_ratio", "decay_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"schedule.{name} is {getattr(self, name)}; it is a share, within 0..1.")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps is {self.warmup_steps}; use 0 (no warm-up) or more.")

    def require_within(self, steps: int) -> None:
        """Checks that a run of so many steps reaches the peak learning rate.

        Raises:
            ValueError: it does not, or the warm-up runs into the decay of ``wsd``.
        """
        warmup, key = self._warmup(steps), "warmup_ratio" if self.warmup_steps is None else "warmup_steps"
        if warmup > steps:
            raise ValueError(
                f"schedule.{key} is {getattr(self, key)}, but the run has {steps} steps: lr would end at "
                f"{steps / warmup:.0%} of its peak. Lower schedule.warmup_steps (null: schedule.warmup_ratio of the "
                "steps), or give the run more steps."
            )
        decay = self.decay_ratio * steps if self.kind is ScheduleKind.wsd else 0
        if warmup and warmup + decay > steps + 1:
            raise ValueError(
                f"schedule.{key} is {getattr(self, key)} and schedule.decay_ratio {self.decay_ratio}: of {steps} steps "
                "warm-up and decay would take more than all, and lr would not reach its peak. Lower one of them."
            )

    def _warmup(self, steps: int) -> int:
        return self.warmup_steps if self.warmup_steps is not None else round(self.warmup_ratio * steps)

    def lr_factor(self, step: int, steps: int) -> float:
        """Factor on the peak lr for the 0-based ``step`` of ``steps``."""
        warmup = self._warmup(steps)
        if step < warmup:
            return (step + 1) / warmup
        remaining = max(steps - 1 - warmup, 1)
        progress = min((step - warmup) / remaining, 1.0)
        span = 1 - self.min_lr_ratio
        match self.kind:
            case ScheduleKind.constant:
                return 1.0
            case ScheduleKind.linear:
                return 1 - span * progress
            case ScheduleKind.cosine:
                return self.min_lr_ratio + span * 0.5 * (1 + math.cos(math.pi * progress))
            case ScheduleKind.wsd:
                decay_steps = max(self.decay_ratio * steps, 1)
                decayed = max(step - (steps - 1 - decay_steps), 0) / decay_steps
                return 1 - span * min(decayed, 1.0)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; matrices are decayed, vectors are not.

    Raises:
        ValueError: there are none.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("The model has no trainable parameter.")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    beta1, beta2 = config.betas
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=True
    )
