"""A real short training with its health looked at: the tiny model on rows of tests/training/setup.py or on others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.training.health import NonFiniteGuard
from qwen3emb_train.training.health.alerts import Alert, Alerts
from qwen3emb_train.training.health.gradients import gradient_norms_by_group, scaled_to
from qwen3emb_train.training.health.non_finite import bad_queries
from qwen3emb_train.training.health.vectors import vector_health, vector_metrics
from qwen3emb_train.training.health.weights import WeightWatch, lora_metrics
from qwen3emb_train.training.objectives import embeddings_by_role
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer
from tests.training.setup import write_rows

Row = tuple[str, list[str], list[str]]


def usual_rows(directory: Path) -> list[Row]:
    """Those of the stage's tests."""
    lines = write_rows(directory / "rows.jsonl").read_text().splitlines()
    return [(row["query"], row["positives"], row["negatives"]) for row in map(json.loads, lines)]


@dataclass
class Outcome:
    """What a run left: metrics by step, everything said, the last step's vectors, the model."""

    monitor_alerts: Alerts
    metrics: list[dict[str, object]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    vectors: Embeddings | None = None
    encoder: torch.nn.Module | None = None

    def said(self) -> set[str]:
        return {alert.name for alert in self.alerts if alert.begins}


def train(
    base: Path,
    rows: Sequence[Row],
    *,
    steps: int = 40,
    every: int = 5,
    lr: float | Callable[[int], float] = 1e-3,
    batch_size: int = 8,
    loss: InfoNCE | None = None,
    lora: LoraConfig | None = None,
    max_grad_norm: float = 1.0,
    task: str = "retrieval",
    prepare: Callable[[torch.nn.Module], object] = lambda encoder: None,
) -> Outcome:
    """A loop of its own, so that what is measured is the measuring; every ``every`` steps everything is looked at."""
    loss = loss or InfoNCE()
    torch.manual_seed(0)
    encoder = load_encoder(ModelConfig(path=str(base), lora=lora or LoraConfig()))
    prepare(encoder)
    optimizer = build_optimizer(encoder, OptimizerConfig())
    trained = [(name, weight) for name, weight in encoder.named_parameters() if weight.requires_grad]
    watch, guard = WeightWatch(trained), NonFiniteGuard()
    outcome = Outcome(Alerts(steps, max_grad_norm), encoder=encoder)
    batches = Batches(base, rows, batch_size)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_now = lr(step) if callable(lr) else lr
        batch = batches(step)
        outcome.vectors = vectors = embeddings_by_role(batch, encoder(batch.texts))
        result = loss(vectors)
        result.loss.backward()
        gradients = [(name, weight.grad) for name, weight in trained if weight.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(encoder.parameters(), max_grad_norm))
        guard.check(
            step, batch, float(result.loss.detach()), norm < float("inf"), partial(bad_queries, vectors), gradients
        )
        metrics: dict[str, object] = {"loss": float(result.loss.detach()), "grad_norm": norm, "lr": lr_now}
        metrics["temperature"] = loss.temperature
        if (step + 1) % every == 0:
            metrics |= {name: float(value) for name, value in result.metrics.items()}
            metrics |= vector_metrics(vector_health(vectors, false_negative_margin=loss.false_negative_margin))
            metrics |= scaled_to(gradient_norms_by_group(gradients, num_layers=2), norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0:
            metrics |= watch.metrics(watch.movement(trained), step + 1) | lora_metrics(encoder)
        outcome.metrics.append(metrics)
        outcome.alerts += outcome.monitor_alerts.see(step + 1, metrics, source="rows", task=task)
    return outcome


class Batches:
    """Rows in a seeded order, epoch after epoch, each distinct text once."""

    def __init__(self, base: Path, rows: Sequence[Row], batch_size: int) -> None:
        self.tokenizer, self.rows, self.batch_size = load_tokenizer(str(base)), rows, batch_size
        self.numbers: dict[str, int] = {}

    def __call__(self, step: int) -> EmbeddingBatch:
        per_epoch = len(self.rows) // self.batch_size
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(step // per_epoch)).tolist()
        first = step % per_epoch * self.batch_size
        chosen = order[first : first + self.batch_size]
        texts: dict[str, int] = {}

        def place(text: str) -> int:
            self.numbers.setdefault(text, len(self.numbers))
            return texts.setdefault(text, len(texts))

        queries, positives, negatives, positive_query_idx, negative_query_idx = [], [], [], [], []
        for number, row in enumerate(chosen):
            query, right, wrong = self.rows[row]
            queries.append(place(query))
            positives += [place(text) for text in right]
            positive_query_idx += [number] * len(right)
            negatives += [place(text) for text in wrong]
            negative_query_idx += [number] * len(wrong)
        long = torch.long
        return EmbeddingBatch(
            texts=PackedTokens.from_lists(self.tokenizer.tokenize(list(texts), 64)),
            query_idx=torch.tensor(queries, dtype=long),
            positive_idx=torch.tensor(positives, dtype=long),
            positive_query_idx=torch.tensor(positive_query_idx, dtype=long),
            negative_idx=torch.tensor(negatives, dtype=long),
            negative_query_idx=torch.tensor(negative_query_idx, dtype=long),
            text_hash=torch.tensor([self.numbers[text] for text in texts], dtype=long),
            source="rows",
            source_names=("rows",),
            row_source=torch.zeros(len(chosen), dtype=long),
            row_number=torch.tensor(chosen, dtype=long),
        )
