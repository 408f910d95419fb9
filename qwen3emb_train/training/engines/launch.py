"""Which engine the launcher asked for, and the process group under it.

``accelerate launch`` (and torchrun) describe a process in its environment: rank, world size, rendezvous, and whether
DeepSpeed or FSDP was chosen with which settings. It is read here and nowhere else. The process group is torch's own:
accelerate 1.15 ignores DeepSpeed and FSDP on CPU (its ``state.py``), and there is nothing else it would have to do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist

from qwen3emb_train.distributed import together, world_size
from qwen3emb_train.models.precision import Precision, resolve_device, round_frozen_products
from qwen3emb_train.models.quantization import is_quantized
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.models.unread import UnreadWeights
from qwen3emb_train.training.engines.engine import Engine, SingleEngine
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer

_BLOCK = 1 << 21  # elements read at once: what a rank needs beside its share
_JOINED: list[str] = []  # the backend of a group that start() made; a caller's own is not ours to end


class EngineKind(str, Enum):
    """Single process, data parallel, DeepSpeed ZeRO, or FSDP2 (also as HSDP)."""

    single = "single"
    ddp = "ddp"
    deepspeed = "deepspeed"
    fsdp2 = "fsdp2"


@dataclass(frozen=True)
class Launch:
    """What the launcher decided.

    Attributes:
        kind: which engine.
        device: of this process.
        deepspeed: DeepSpeed's settings, where it was chosen.
        num_replicas: sharded copies of the model (HSDP); 1 = one over all ranks.
    """

    kind: EngineKind
    device: torch.device
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    num_replicas: int = 1

    @property
    def reads_parts(self) -> bool:
        """Whether each rank can read its part of the weights alone (``models.unread``)."""
        return self.kind is EngineKind.fsdp2


def start(device: str, timeout_s: float = 1800.0) -> Launch:
    """Joins the process group if there is one to join.

    Args:
        device: auto, cpu, cuda, cuda:1, ...
        timeout_s: a collective operation that waits longer fails on every rank instead of hanging.

    Raises:
        ValueError: FSDP version 1, an engine that was asked for but cannot be, or one GPU named for several processes.
    """
    resolved = resolve_device(device)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if resolved.type == "cuda":
        resolved = _gpu_of_this_process(resolved, num_ranks)
        torch.cuda.set_device(resolved)
    if num_ranks > 1 and not dist.is_initialized():
        backend = "nccl" if resolved.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        _JOINED.append(backend)
    if _asks_for("ACCELERATE_USE_DEEPSPEED"):
        return Launch(EngineKind.deepspeed, resolved, _deepspeed_settings(resolved))
    if world_size() == 1:
        return Launch(EngineKind.single, resolved)
    if _asks_for("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "2") != "2":
            raise ValueError("The launcher asks for FSDP version 1. Set fsdp_version: 2 (scripts/launch/fsdp2.yaml).")
        return Launch(EngineKind.fsdp2, resolved, num_replicas=_num_replicas())
    return Launch(EngineKind.ddp, resolved)


def close_process_group() -> None:
    """All ranks leave the group of ``start`` at the same time: leaving early aborts the others' communication."""
    if _JOINED and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _JOINED.clear()


def build_engine(
    launch: Launch,
    model: TextModel,
    optimizer: OptimizerConfig,
    precision: Precision,
    *,
    max_grad_norm: float | None,
    sync_every_chunk: bool = False,
) -> Engine:
    """Puts the model (float32, on the CPU or the device) under the engine; builds its optimizer.

    Of a model whose weights are still in their files each rank reads its part.

    Args:
        launch: which engine, on which device.
        model: whole, or unread where ``launch.reads_parts``.
        optimizer: settings of AdamW.
        precision: resolved.
        max_grad_norm: see ``Engine.finish_backward``; DeepSpeed needs it at the start.
        sync_every_chunk: sharded engines only: reduce gradients after every chunk instead of once a step.

    Raises:
        ValueError: quantised weights under an engine that shards them; weights that are not finite.
    """
    if launch.kind in (EngineKind.fsdp2, EngineKind.deepspeed) and any(map(is_quantized, model.modules())):
        raise ValueError("model.quantization=nf4 cannot be sharded: launch with ddp.yaml, or set quantization=none.")
    if precision is Precision.bf16:
        round_frozen_products(model.backbone)  # a reranker's head computes in float32
    if model.unread is None:
        model = model.to(launch.device)
    elif not launch.reads_parts:
        raise AssertionError(f"{launch.kind.value} needs a model with its weights in memory")
    engine = _build(launch, model, optimizer, precision, max_grad_norm, sync_every_chunk)
    if model.unread is not None:
        with together(launch.device, "read its part of the weights"):
            read_weights(engine, model.unread)
    return engine


def read_weights(engine: Engine, unread: UnreadWeights) -> None:
    """Each rank reads its own part of every weight from the files, one after the other.

    Args:
        engine: built over a model without weights.
        unread: where they are.

    Raises:
        ValueError: a part holds NaN or infinity, or a file ended.
    """
    for name, part, first in engine.weight_parts():
        if name in unread.names:
            for begin in range(0, len(part), _BLOCK):
                block = part[begin : begin + _BLOCK]
                block.copy_(unread.part(name, first + begin, len(block)))


def _build(
    launch: Launch,
    model: TextModel,
    optimizer: OptimizerConfig,
    precision: Precision,
    max_grad_norm: float | None,
    sync_every_chunk: bool,
) -> Engine:
    match launch.kind:
        case EngineKind.single:
            return SingleEngine(model, build_optimizer(model, optimizer), precision, launch.device)
        case EngineKind.ddp:
            from qwen3emb_train.training.engines.ddp import DDPEngine

            return DDPEngine(model, build_optimizer(model, optimizer), precision, launch.device)
        case EngineKind.fsdp2:
            from qwen3emb_train.training.engines.fsdp2 import FSDP2Engine

            return FSDP2Engine(
                model, optimizer, precision, launch.device, launch.num_replicas, sync_every_chunk=sync_every_chunk
            )
        case EngineKind.deepspeed:
            from qwen3emb_train.training.engines.deepspeed import DeepSpeedEngine

            return DeepSpeedEngine(
                model, build_optimizer(model, optimizer), precision, launch.device, launch.deepspeed,
                max_grad_norm, sync_every_chunk=sync_every_chunk,
            )  # fmt: skip


def _gpu_of_this_process(device: torch.device, num_ranks: int) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.index is None:
        return torch.device("cuda", local_rank)
    if num_ranks > 1 and device.index != local_rank:
        raise ValueError(
            f"device={device} names one GPU, and {num_ranks} processes were launched. Set device=cuda, and choose GPUs "
            "by CUDA_VISIBLE_DEVICES."
        )
    return device


def _asks_for(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def _num_replicas() -> int:
    return int(os.environ.get("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1"))


def _deepspeed_settings(device: torch.device) -> dict[str, Any]:
    """The settings of ``accelerate launch --use_deepspeed``, and what DeepSpeed needs to run without a GPU."""
    try:
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed
        from accelerate.utils import DeepSpeedPlugin
    except ImportError as error:
        raise ValueError(f"The launcher asks for DeepSpeed, which cannot be imported ({error}).") from error
    if device.type == "cpu":
        # Its shared-memory collectives are compiled at start, for minutes; gloo serves as well here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if world_size() == 1 and not dist.is_initialized():
        _join_alone(device)
    deepspeed.init_distributed(
        dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
    )
    return dict(DeepSpeedPlugin().deepspeed_config)


def _join_alone(device: torch.device) -> None:
    """DeepSpeed needs a process group even for one process."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=0, world_size=1)
