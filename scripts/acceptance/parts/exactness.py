"""One step in two ways that must agree: vectors, loss and gradient, in fp32 and bf16.

Bounds are relative: the norm of the difference over the norm of the reference. In fp32 only the order of sums differs.
Two ways on one device in bf16 round the same products to 8 bits, at places that a sum's order moves; bf16 beside fp32
differs by the rounding itself, which the loss's temperature multiplies in the gradient. On the CPU, two narrow layers:
bf16 beside fp32 0.011, 0.0008 and 0.023.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from qwen3emb_train.data.batches import chunk_by_tokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models import packing
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.training import gradient_cache
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.objectives import EmbeddingObjective
from scripts.acceptance.part import Row, Setup, within
from scripts.bench.random_steps import (
    load_on,
    log_normal_lengths,
    qwen3_shape,
    random_batch,
    small_shape,
    write_random_model,
)

TEMPERATURE = 0.05
INSTRUCTION = 24  # tokens that long queries share


@dataclass(frozen=True)
class Bounds:
    """Largest relative differences."""

    vectors: float
    loss: float
    gradient: float


SAME = {Precision.fp32: Bounds(1e-5, 1e-5, 1e-4), Precision.bf16: Bounds(1e-2, 5e-3, 5e-2)}
# The same kernels on the same chunks: only backward kernels that add with atomics differ from one run to the next.
REPEATED = {Precision.fp32: Bounds(1e-6, 1e-6, 1e-5), Precision.bf16: Bounds(1e-6, 1e-6, 5e-3)}
BF16_BESIDE_FP32 = Bounds(3e-2, 2e-2, 2e-1)


@dataclass(frozen=True)
class Observed:
    """What a step computed, on the CPU in float32."""

    vectors: Tensor
    loss: float
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A model directory, a batch, and the size of chunks that cuts it into several."""

    model: Path
    batch: Any
    tokens_per_chunk: int


def measure(setup: Setup) -> list[Row]:
    device, cpu = torch.device(setup.device), torch.device("cpu")
    if torch.backends.cuda.matmul.allow_tf32:
        raise RuntimeError("TF32 products are on: float32 would be compared with 10 bits")
    problem = make_problem(setup)
    require_sharing(problem)
    encoder = load_on(problem.model, device)
    reference = observe(load_on(problem.model, cpu), problem, Precision.fp32, cpu)
    rows: list[Row] = []
    for precision in (Precision.fp32, Precision.bf16):
        plain = observe(encoder, problem, precision, device)
        bounds = SAME[precision] if precision is Precision.fp32 else BF16_BESIDE_FP32
        rows += compared(f"cpu fp32, {device.type} {precision.value}", plain, reference, bounds)
        label = f"{device.type} {precision.value}"
        rows += kernel_rows(encoder, problem, precision, device, plain, label)
        with whole_texts():
            whole = observe(encoder, problem, precision, device)
        rows += compared(f"{label}: prefixes shared, whole", plain, whole, SAME[precision])
        kept = observe(encoder, problem, precision, device, kept=True)
        rows += compared(f"{label}: graphs kept, replayed", kept, plain, REPEATED[precision])
        recomputing = load_on(problem.model, device, activation_checkpointing=True)
        checkpointed = observe(recomputing, problem, precision, device)
        rows += compared(f"{label}: activation checkpointing on, off", checkpointed, plain, REPEATED[precision])
    return rows


def make_problem(setup: Setup) -> Problem:
    """Four layers of the 0.6B width over a small vocabulary, 128 texts; in a smoke run two narrow layers."""
    shape = small_shape() if setup.smoke else qwen3_shape("0.6B", 4)
    shape.vocab_size = 512 if setup.smoke else 8192
    lengths = log_normal_lengths(48 if setup.smoke else 128, 30 if setup.smoke else 96)
    batch = random_batch(lengths, shape.vocab_size, prefix=INSTRUCTION)
    return Problem(write_random_model(setup.work / "model", shape), batch, int(lengths.sum()) // 3)


def require_sharing(problem: Problem) -> None:
    """Else shared and whole would be the same thing.

    Raises:
        RuntimeError: no chunk has a prefix that is worth sharing.
    """
    texts = problem.batch.texts
    chunks = chunk_by_tokens(texts.lengths, problem.tokens_per_chunk)
    if len(chunks) < 2 or not any(share_prefixes(texts.select(chunk)).num_prefixes for chunk in chunks):
        raise RuntimeError(f"{len(chunks)} chunks, of which none shares a prefix")


def observe(
    encoder: Encoder, problem: Problem, precision: Precision, device: torch.device, kept: bool = False
) -> Observed:
    """A forward and backward pass by the objective that trains.

    Args:
        encoder: on its device.
        problem: batch and chunks.
        precision: of the products.
        device: of the encoder.
        kept: all graphs are kept, none is replayed.
    """
    engine = SingleEngine(encoder, torch.optim.SGD(encoder.parameters()), precision, device)  # never steps
    objective = EmbeddingObjective(
        engine, InfoNCE(temperature=TEMPERATURE), (), problem.tokens_per_chunk,
        problem.batch.texts.num_tokens if kept else 0,
    )  # fmt: skip
    loss = float(objective.forward_backward(problem.batch)["loss"])
    assert objective.vectors is not None
    local = objective.vectors.local
    vectors = torch.cat([local.queries, local.positives]).float().cpu()
    gradients = {name: gradient.float().cpu() for name, gradient in engine.named_gradients()}
    engine.discard()
    return Observed(vectors, loss, gradients)


def kernel_rows(
    encoder: Encoder, problem: Problem, precision: Precision, device: torch.device, plain: Observed, label: str
) -> list[Row]:
    """Varlen kernel and dense grid, where a kernel serves this precision.

    Args:
        encoder, problem, precision, device: as in ``observe``.
        plain: with the kernel.
        label: of the rows.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    if packing.varlen_kernel_for(device, dtype, encoder.config.head_dim) is None:
        return [Row(f"{label}: varlen kernel, grid", "no varlen kernel serves this: only the grid runs")]
    with patch.object(packing, "varlen_kernel_for", lambda device, dtype, head_dim: None):
        grid = observe(encoder, problem, precision, device)
    return compared(f"{label}: varlen kernel, grid", plain, grid, SAME[precision])


@contextmanager
def whole_texts() -> Iterator[None]:
    """Chunks are not searched for shared prefixes."""
    with patch.object(gradient_cache, "share_prefixes", lambda tokens: tokens):
        yield


def compared(what: str, found: Observed, reference: Observed, bounds: Bounds) -> list[Row]:
    """Three rows.

    Args:
        what: the two ways, the one that is judged first.
        found, reference: their steps.
        bounds: for the differences.
    """
    if found.gradients.keys() != reference.gradients.keys():
        raise RuntimeError(f"{what}: gradients of other parameters")
    difference = sum(
        float((gradient - reference.gradients[name]).double().square().sum())
        for name, gradient in found.gradients.items()
    )
    size = sum(float(gradient.double().square().sum()) for gradient in reference.gradients.values())
    vectors = float((found.vectors - reference.vectors).norm() / reference.vectors.norm())
    return [
        within(f"{what}: vectors", vectors, bounds.vectors, "relative"),
        within(f"{what}: loss", abs(found.loss / reference.loss - 1), bounds.loss, "relative"),
        within(f"{what}: gradient", (difference / size) ** 0.5, bounds.gradient, "relative"),
    ]
