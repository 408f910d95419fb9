"""Each engine with one rank against no engine: losses and gradient norms of three steps, and the type of products.

Under FSDP2 bf16 comes by casting the weights, so the residual stream and the norms are bf16, too: its bounds are wider.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.engines.launch import EngineKind, Launch, build_engine, start
from qwen3emb_train.training.engines.probe import require_products
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig
from scripts.acceptance.part import Row, Setup, is_installed, within
from scripts.acceptance.parts.exactness import TEMPERATURE, Problem, make_problem
from scripts.bench.random_steps import whole_step

STEPS = 3
LR = 1e-4
FP32, BF16, BF16_CAST = 1e-4, 1e-2, 5e-2
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Course:
    """Of each step."""

    losses: list[float]
    norms: list[float]


def measure(setup: Setup) -> list[Row]:
    problem = make_problem(setup)
    device = torch.device("cuda", 0) if setup.is_cuda else torch.device("cpu")
    if not dist.is_initialized():
        store = dist.HashStore()
        dist.init_process_group("nccl" if setup.is_cuda else "gloo", store=store, rank=0, world_size=1)
    rows: list[Row] = []
    try:
        for precision in (Precision.fp32, Precision.bf16):
            alone = course(problem, Launch(EngineKind.single, device), precision)
            for kind in (EngineKind.ddp, EngineKind.fsdp2):
                found = course(problem, Launch(kind, device), precision)
                rows += compared(kind.value, precision, found, alone)
            rows += zero_rows(problem, device, precision, alone, stages=(2,) if setup.smoke else STAGES)
    finally:
        dist.destroy_process_group()
    return rows


def course(problem: Problem, launch: Launch, precision: Precision) -> Course:
    """Three steps from the same weights; the type of the products is required before them."""
    torch.manual_seed(0)
    encoder = load_encoder(ModelConfig(path=str(problem.model)))
    engine = build_engine(launch, encoder, OptimizerConfig(lr=LR), precision, max_grad_norm=1.0)
    require_products(engine)
    return steps(engine, problem)


def steps(engine: Engine, problem: Problem) -> Course:
    objective = EmbeddingObjective(engine, InfoNCE(temperature=TEMPERATURE), (), problem.tokens_per_chunk, 0)
    step = whole_step(objective, engine, problem.batch, LR)
    losses, norms = zip(*(step() for _ in range(STEPS)), strict=True)
    return Course(list(losses), list(norms))


def compared(name: str, precision: Precision, found: Course, alone: Course) -> list[Row]:
    """The largest relative differences over the steps.

    Args:
        name: of the engine.
        precision: of the products.
        found, alone: with the engine, and without.
    """
    limit = FP32 if precision is Precision.fp32 else BF16_CAST if name == "fsdp2" else BF16
    label = f"{name}, one rank, {precision.value}"
    return [
        Row(f"{label}: products", precision.value, bound=f"= {precision.value}", ok=True),  # else it had raised
        within(f"{label}: loss", largest(found.losses, alone.losses), limit, "relative"),
        within(f"{label}: gradient norm", largest(found.norms, alone.norms), 5 * limit, "relative"),
    ]


def largest(found: list[float], reference: list[float]) -> float:
    return max(abs(one / other - 1) for one, other in zip(found, reference, strict=True))


def zero_rows(
    problem: Problem, device: torch.device, precision: Precision, alone: Course, stages: tuple[int, ...]
) -> list[Row]:
    """ZeRO as the launcher asks for it.

    Args:
        problem: model and batch.
        device: of the rank.
        precision: of the products.
        alone: without an engine.
        stages: of ZeRO.
    """
    if not is_installed("deepspeed"):
        return [Row(f"zero, one rank, {precision.value}", "deepspeed is not installed")]
    rows: list[Row] = []
    for stage in stages:
        with environment({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}):
            found = course(problem, start(device.type), precision)
        rows += compared(f"zero{stage}", precision, found, alone)
    return rows


class environment:  # noqa: N801 - reads as a statement
    """Variables for the time of a block, and those of a single rank beside them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **variables}

    def __enter__(self) -> None:
        self.before = dict(os.environ)
        os.environ |= self.variables

    def __exit__(self, *_: object) -> None:
        for name in self.variables:
            os.environ.pop(name, None)
        os.environ |= {name: self.before[name] for name in self.variables if name in self.before}
