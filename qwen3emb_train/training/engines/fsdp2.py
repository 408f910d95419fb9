"""FSDP2: weights, gradients and moments sharded by rows over ranks; hybrid (HSDP): sharded inside a group, repeated
across groups.

torch's own ``fully_shard`` rather than accelerate's wrapping of it: it runs on gloo and CPU too, so what a cluster does
is what the tests do. Every decoder layer is a unit; the rest (embedding, last norm) belongs to the root.
"""

import math
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.distributed import is_main_process, world_size
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.training.engines.engine import Engine, Piece, ReadRows
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer


class FSDP2Engine(Engine):
    """``fully_shard`` on a one- or two-dimensional mesh.

    Args:
        model: whole on every rank, or on the meta device; sharded in place.
        optimizer: its settings (the optimizer is built after sharding, over the shards).
        precision: bf16: layers compute in bf16 on gathered bf16 copies; the shards stay float32 and gradients are
            reduced in float32.
        device: where it computes.
        num_replicas: groups that each hold one sharded copy (HSDP); 1 = one copy over all ranks.
        sync_every_chunk: reduce gradients after every chunk: less memory, more communication.
    """

    name = "fsdp2"
    lockstep = True
    has_partial_gradients = True

    def __init__(
        self,
        model: TextModel,
        optimizer: OptimizerConfig,
        precision: Precision,
        device: torch.device,
        num_replicas: int = 1,
        sync_every_chunk: bool = False,
    ) -> None:
        self.mesh = _mesh(device, num_replicas)
        self._sync_every_chunk = sync_every_chunk
        policy = MixedPrecisionPolicy()
        if precision is Precision.bf16:
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in decoder_layers(model):
            fully_shard(layer, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh, mp_policy=policy)
        model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
        super().__init__(model, build_optimizer(model, optimizer), precision, device)
        if num_replicas > 1:
            self.name = "hsdp"
        self._gradient_norm = math.nan

    def weight_parts(self) -> Iterator[tuple[str, Tensor, int]]:
        for name, parameter in self.model.named_parameters():
            if isinstance(parameter, DTensor):
                rest = math.prod(parameter.shape[1:])
                yield name, parameter.to_local().detach().view(-1), _place(parameter)[0] * rest

    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Float[Tensor, "texts dim"]:
        vectors: Tensor = self.model(tokens)
        return vectors

    def backward(self, scalar: Tensor, *, last: bool = False) -> None:
        self.model.set_requires_gradient_sync(last or self._sync_every_chunk)  # type: ignore[operator]
        scalar.backward()

    def finish_backward(self, max_grad_norm: float | None) -> bool:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self._gradient_norm = float(norm)
        is_finite = math.isfinite(self._gradient_norm)
        if is_finite and max_grad_norm is not None:  # else a NaN would spread, and hide where it came from
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
        return is_finite

    def update(self, lr: float) -> float:
        self.set_lr(lr)
        self.optimizer.step()
        self.discard()
        return self._gradient_norm

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gather_parameters(self) -> dict[str, Tensor]:
        self._reshard()
        gathered = {}
        for name, parameter in self.model.named_parameters():
            whole = parameter.detach()
            if isinstance(whole, DTensor):
                whole = whole.full_tensor()  # one tensor at a time is whole on every rank
            if is_main_process():
                gathered[name] = whole.cpu()
        return gathered

    def optimizer_pieces(self) -> dict[str, Piece]:
        self._reshard()
        pieces = {}
        for name, parameter in self.model.named_parameters():
            first_row, writes = _place(parameter)
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                if not isinstance(value, DTensor):  # the step counter: every rank has the same
                    if is_main_process():
                        pieces[f"{name}/{kind}"] = Piece(value.detach(), 0, tuple(value.shape))
                elif writes:
                    pieces[f"{name}/{kind}"] = Piece(value.to_local().detach(), first_row, tuple(value.shape))
        return pieces

    def load_optimizer(self, read: ReadRows, names: Mapping[str, tuple[int, ...]]) -> None:
        parameters = dict(self.model.named_parameters())
        for key, shape in names.items():
            name, kind = key.rsplit("/", 1)
            parameter = parameters[name]
            if shape != tuple(parameter.shape):
                self.optimizer.state[parameter][kind] = read(key, 0, shape[0] if shape else 1).to(self.device)
                continue
            assert isinstance(parameter, DTensor)
            local = read(key, _place(parameter)[0], parameter.to_local().shape[0]).to(self.device)
            self.optimizer.state[parameter][kind] = DTensor.from_local(
                local, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
            )

    def _reshard(self) -> None:
        """After a pass without backward (validation) the root's parameters are still whole, not the optimizer's."""
        self.model.reshard()  # type: ignore[operator]


def decoder_layers(model: TextModel) -> list[nn.Module]:
    """The decoder's layers, also inside a peft model.

    Raises:
        ValueError: the model has no list of layers under the name ``layers``.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rsplit(".", 1)[-1] == "layers":
            return list(module)
    raise ValueError(
        f"FSDP2 needs the decoder's list of layers, and {type(model.backbone).__name__} has none called 'layers'. "
        "Use DDP or DeepSpeed for it."
    )


def _mesh(device: torch.device, num_replicas: int) -> DeviceMesh:
    if num_replicas == 1:
        return init_device_mesh(device.type, (world_size(),))
    if world_size() % num_replicas:
        raise ValueError(
            f"{world_size()} ranks cannot be divided into {num_replicas} replicas. Let "
            "parallelism_config_dp_replicate_size divide the number of processes."
        )
    return init_device_mesh(
        device.type, (num_replicas, world_size() // num_replicas), mesh_dim_names=("replicate", "shard")
    )


def _place(parameter: Tensor) -> tuple[int, bool]:
    """Where this rank's rows begin, and whether it is the one to write them (the first replica does)."""
    if not isinstance(parameter, DTensor):
        return 0, is_main_process()
    mesh = parameter.device_mesh
    shard_dim = mesh.ndim - 1
    num_shards, own = mesh.size(shard_dim), mesh.get_local_rank(shard_dim)
    rows_per_shard = -(-parameter.shape[0] // num_shards)  # fully_shard cuts as torch.chunk does
    is_first_replica = mesh.ndim == 1 or mesh.get_local_rank(0) == 0
    return min(own * rows_per_shard, parameter.shape[0]), is_first_replica and dist.is_initialized()
