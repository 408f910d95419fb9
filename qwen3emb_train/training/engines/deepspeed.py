"""DeepSpeed ZeRO-1/2/3: moments, gradients or also weights partitioned over ranks.

The engine is driven directly: under accelerate the update would run inside ``backward``, before the gradients could
be checked. All backward passes of a step lie inside DeepSpeed's ``coalesce_grad_reduction``, which reduces once at
its end; until then the gradients are whole and local, which is where they are checked.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.distributed import is_main_process, rank, world_size
from qwen3emb_train.models.precision import Precision, autocast
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.training.engines.engine import Engine, Piece, ReadRows

# Gradients that ZeRO reduces at once, in a buffer of this size: DeepSpeed's own default, stated here because
# ``planning`` counts it. A launcher's value wins.
REDUCE_BUCKET_ELEMENTS = 500_000_000


class DeepSpeedEngine(Engine):
    """ZeRO over float32 weights; bf16 comes by autocast, entered inside the model.

    Args:
        model: whole, on the device.
        optimizer: AdamW over its parameters.
        precision: of the matrix products.
        device: where it computes.
        settings: DeepSpeed's configuration (``zero_optimization`` with its stage and offloading); batch sizes and
            clipping are set here.
        max_grad_norm: DeepSpeed clips inside its update, so it must know at the start.
        sync_every_chunk: reduce gradients after every chunk: less memory under ZeRO-2/3, more communication.
    """

    name = "zero"

    def __init__(
        self,
        model: TextModel,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        device: torch.device,
        settings: Mapping[str, Any],
        max_grad_norm: float | None,
        sync_every_chunk: bool = False,
    ) -> None:
        import deepspeed

        self.stage = int(settings.get("zero_optimization", {}).get("stage", 0))
        if self.stage not in (1, 2, 3):
            raise ValueError(
                f"DeepSpeed ZeRO stage {self.stage}: use 1, 2 or 3; for plain data parallelism use ddp.yaml."
            )
        _autocast_inside(model, precision, device)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_complete(settings, max_grad_norm), dist_init_required=False
        )
        super().__init__(model, self._engine.optimizer.optimizer, precision, device)
        self.name = f"zero{self.stage}"
        self.lockstep = self.stage == 3 or sync_every_chunk
        self._sync_every_chunk = sync_every_chunk
        self._coalescing: AbstractContextManager[None] | None = None

    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Float[Tensor, "texts dim"]:
        vectors: Tensor = self._engine(tokens)
        return vectors

    def backward(self, scalar: Tensor, *, last: bool = False) -> None:
        if self._sync_every_chunk:
            self._engine.set_gradient_accumulation_boundary(last)
        elif self._coalescing is None:
            self._coalescing = self._engine.coalesce_grad_reduction()
            self._coalescing.__enter__()
        self._engine.backward(scalar)

    def finish_backward(self, max_grad_norm: float | None) -> bool:
        # Whole and local until the reduction: a NaN is seen on the rank that made it.
        squares = [gradient.float().square().sum() for _, gradient in self.named_gradients()]
        is_finite = math.isfinite(float(torch.stack(squares).sum())) if squares else True
        if self._coalescing is not None:
            self._coalescing.__exit__(None, None, None)
            self._coalescing = None
        return is_finite

    def update(self, lr: float) -> float:
        self.set_lr(lr)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return math.nan if norm is None else float(norm)

    def discard(self) -> None:
        # ZeRO keeps reduced gradients in its own buffers; what the next reduction overwrites needs no clearing.
        self._engine.optimizer.zero_grad(set_to_none=True)
        buffers = getattr(self._engine.optimizer, "averaged_gradients", {})
        for group in list(buffers):
            buffers[group] = None

    def named_gradients(self) -> Any:
        for name, parameter in self.model.named_parameters():
            gradient = getattr(parameter, "grad_accum", None)
            gradient = parameter.grad if gradient is None else gradient
            if gradient is not None:
                yield name, gradient

    def gather_parameters(self) -> dict[str, Tensor]:
        import deepspeed

        gathered = {}
        for name, parameter in self.model.named_parameters():
            context = deepspeed.zero.GatheredParameters([parameter]) if self.stage == 3 else nullcontext()
            with context:  # one tensor at a time is whole
                if is_main_process():
                    gathered[name] = parameter.detach().cpu().clone()
        return gathered

    @property
    def optimizer_layout(self) -> str:
        return f"zero{self.stage} on {world_size()} ranks"

    @property
    def optimizer_names(self) -> set[str]:
        return {f"rank_{rank()}.group_{group}" for group, _ in enumerate(self._partitions())}

    def optimizer_pieces(self) -> dict[str, Piece]:
        """ZeRO's flat partitions: they can be read back at the same stage and number of ranks."""
        pieces = {}
        for group, partition in enumerate(self._partitions()):
            for kind, value in self.optimizer.state.get(partition, {}).items():
                if isinstance(value, Tensor):
                    pieces[f"rank_{rank()}.group_{group}/{kind}"] = Piece(value.detach(), 0, tuple(value.shape))
        return pieces

    def load_optimizer(self, read: ReadRows, names: Mapping[str, tuple[int, ...]]) -> None:
        for group, partition in enumerate(self._partitions()):
            own = f"rank_{rank()}.group_{group}/"
            for key, shape in names.items():
                if key.startswith(own):
                    value = read(key, 0, shape[0] if shape else 1)
                    self.optimizer.state[partition][key.removeprefix(own)] = value.to(partition.device)

    def _partitions(self) -> list[Tensor]:
        """The flat float32 tensors that the inner AdamW updates, one for each parameter group (or sub-group)."""
        zero = self._engine.optimizer
        found = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        return list(found)


def _autocast_inside(model: TextModel, precision: Precision, device: torch.device) -> None:
    """Lets the model's own forward pass enter autocast: one around DeepSpeed's engine would be turned off by it."""
    forward = model.forward

    def in_autocast(tokens: PackedTokens) -> Tensor:
        with autocast(precision, device):
            vectors: Tensor = forward(tokens)
        return vectors

    model.forward = in_autocast  # type: ignore[method-assign]


def _complete(settings: Mapping[str, Any], max_grad_norm: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration without the "auto" values that accelerate would fill."""
    zero = {key: value for key, value in settings.get("zero_optimization", {}).items() if value != "auto"}
    zero.setdefault("reduce_bucket_size", REDUCE_BUCKET_ELEMENTS)
    return {
        "train_micro_batch_size_per_gpu": 1,  # batches are ours; DeepSpeed only wants a number
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if max_grad_norm is None else max_grad_norm,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        "zero_optimization": zero,
    }
