"""Peak memory of two real steps against what ``plan`` says of the same configuration, without its overhead.

On a GPU the allocator's peak is compared; the driver's context and fragmentation, which ``plan`` adds, are not in it.
On a CPU the tests' own measurement of resident memory is used.
"""

from pathlib import Path
from typing import Any

import torch

from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.plan import plan
from scripts.acceptance.part import Row, Setup, within
from scripts.acceptance.parts.mfu import known_card

TOLERANCE = 0.15
MEAN_TOKENS = 64


def measure(setup: Setup) -> list[Row]:
    return on_cpu(setup) if not setup.is_cuda else on_gpu(setup)


def on_gpu(setup: Setup) -> list[Row]:
    from scripts.bench.random_steps import qwen3_shape, write_random_model

    device = torch.device(setup.device)
    model = write_random_model(setup.work / "model", qwen3_shape("0.6B", 28), device)
    torch.cuda.empty_cache()
    cases = {
        "graphs replayed": {"tokens_per_chunk": 16_384},
        "graphs kept": {"tokens_per_chunk": 8_192, "retained_graph_tokens": 10**9},
        "activation checkpointing": {"tokens_per_chunk": 16_384, "activation_checkpointing": True},
        "float32": {"tokens_per_chunk": 4_096, "precision": Precision.fp32},
    }
    rows: list[Row] = []
    for name, settings in cases.items():
        queries = 256 if "retained_graph_tokens" in settings else 512
        lengths = even_lengths(2 * queries, 2 * MEAN_TOKENS)
        config = plan_config(model, lengths, known_card(torch.cuda.get_device_name()) or "h100", **settings)
        try:
            measured = gpu_peak(model, lengths, config, device)
        except torch.cuda.OutOfMemoryError:
            rows.append(Row(f"0.6B, {name}", "out of memory"))
            continue
        rows += compared(f"0.6B, {name}", measured, config)
    return rows


def on_cpu(setup: Setup) -> list[Row]:
    from tests.planning import measure_memory
    from tests.planning.models import write_model

    small = write_model(setup.work / "small")
    model = write_model(
        setup.work / "model", vocab_size=8000, hidden_size=384, intermediate_size=1152, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=3, head_dim=64,
    )  # fmt: skip
    lengths = even_lengths(28, 60)
    config = plan_config(model, lengths, "cpu", tokens_per_chunk=900, precision=Precision.fp32)
    setting = measure_memory.Setting(str(model), str(small), tuple(lengths), config.tokens_per_chunk)
    return compared("small model, resident", measure_memory.measure(setting), config)


def even_lengths(texts: int, mean: int) -> list[int]:
    """From half the mean to one and a half of it, in turn."""
    return [mean // 2 + (i * 37) % (mean + 1) for i in range(texts)]


def plan_config(model: Path, lengths: list[int], gpu: str, **settings: Any) -> PlanConfig:
    """The configuration whose step has these texts: one positive a query, no hard negatives.

    Args:
        model: directory.
        lengths: of all texts.
        gpu: the planner's name.
        settings: chunks, precision, activation_checkpointing.
    """
    is_checkpointing = bool(settings.pop("activation_checkpointing", False))
    mean = sum(lengths) / len(lengths)
    return PlanConfig(
        model=ModelConfig(path=str(model), activation_checkpointing=is_checkpointing),
        data={"made_up": SourceConfig(path=str(model / "none.jsonl"))}, batch_size=len(lengths) // 2, num_gpus="1",
        gpu=gpu, mean_query_tokens=mean, mean_document_tokens=mean, mean_negatives=0.0, steps=2,
        **{"precision": Precision.bf16, **settings},
    )  # fmt: skip


def compared(what: str, measured: int, config: PlanConfig) -> list[Row]:
    memory = plan(config)[0].columns[0].memory
    predicted = memory.total - memory.parts["overhead"]
    return [
        Row(f"{what}: plan ({memory.moment})", round(predicted / 1e9, 3), "GB"),
        Row(f"{what}: measured", round(measured / 1e9, 3), "GB"),
        within(f"{what}: difference", abs(predicted / measured - 1), TOLERANCE, "relative"),
    ]


def gpu_peak(model: Path, lengths: list[int], config: PlanConfig, device: torch.device) -> int:
    """Bytes that tensors took at most in the second of two steps, above what was there before loading.

    Args:
        model: directory.
        lengths: of all texts.
        config: chunks and precision.
        device: a GPU.
    """
    from qwen3emb_train.training.engines.engine import SingleEngine
    from qwen3emb_train.training.objectives import EmbeddingObjective
    from qwen3emb_train.training.optimization import build_optimizer
    from scripts.bench.random_steps import load_on, random_batch, whole_step

    before = torch.cuda.memory_allocated()
    encoder = load_on(model, device, activation_checkpointing=config.model.activation_checkpointing)
    engine = SingleEngine(encoder, build_optimizer(encoder, config.optimizer), config.precision, device)
    objective = EmbeddingObjective(engine, config.loss, (), config.tokens_per_chunk, config.retained_graph_tokens)
    step = whole_step(objective, engine, random_batch(torch.tensor(lengths), int(encoder.config.vocab_size)))
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before
