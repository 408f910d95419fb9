"""Monitors a run: collects diagnostics on all ranks, raises alerts on the main process."""

import json
from pathlib import Path

import torch

from qwen3emb_train.data.batches import TrainingBatch
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.health.alerts import Alerts
from qwen3emb_train.training.health.gradients import gradient_norms_by_group, scaled_to
from qwen3emb_train.training.health.report import write_health
from qwen3emb_train.training.health.vectors import sum_over_ranks
from qwen3emb_train.training.health.weights import WeightWatch, lora_metrics
from qwen3emb_train.training.objective import Objective, ScalarMetrics
from qwen3emb_train.training.tracking import Metric, Tracker


class Monitor:
    """Every rank makes one and calls ``diagnostics``; the main process also calls ``judge``.

    Args:
        engine, objective: of the run.
        every: steps between diagnostics.
        steps, first_step, max_grad_norm: see ``Alerts``.
        output_dir: for health.json.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        *,
        every: int,
        steps: int,
        first_step: int,
        max_grad_norm: float | None,
        output_dir: Path,
    ) -> None:
        self.every, self._engine, self._objective, self._path = every, engine, objective, output_dir / "health.json"
        trained = [(name, p) for name, p in engine.model.named_parameters() if p.requires_grad]
        self._watch = WeightWatch(trained, engine.device, step=first_step)
        self._alerts = Alerts(steps, max_grad_norm, first_step)

    def recall(self, metrics: Path) -> None:
        """Takes up the alerts of a resumed run from its metrics.jsonl, without the lines of later steps."""
        with metrics.open(encoding="utf-8") as lines:
            self._alerts.recall(map(json.loads, lines))

    def is_due(self, done: int) -> bool:
        return done % self.every == 0 or done == 1

    def diagnostics(self, done: int, gradient_norms: dict[str, float]) -> ScalarMetrics:
        """Diagnostics of the step just done, of all ranks. Collective."""
        trained = [(name, p) for name, p in self._engine.model.named_parameters() if p.requires_grad]
        moved = self._watch.movement(trained)
        metrics = self._objective.diagnostics() | self._watch.metrics(sum_over_ranks(moved), done)
        return metrics | lora_metrics(self._engine.model) | gradient_norms

    def gradient_norms(self) -> dict[str, float]:
        """By part of the network; call it between the backward pass and the update. Collective."""
        return gradient_norms_by_group(
            self._engine.named_gradients(),
            int(self._engine.model.config.num_hidden_layers),
            self._engine.device,
            sharded=self._engine.has_partial_gradients,
        )

    def judge(self, done: int, metrics: dict[str, Metric], batch: TrainingBatch, tracker: Tracker) -> None:
        """Prints new alerts and writes health.json. On the main process.

        Args:
            done: steps done.
            metrics: of the last one.
            batch: of the last one.
            tracker: prints the alerts.
        """
        alerts = self._alerts.see(done, metrics, source=batch.source, task=batch.task)
        for alert in alerts:
            tracker.say(str(alert))
        if alerts or self.is_due(done):
            write_health(self._path, done, metrics, self._alerts)


def scaled(norms: dict[str, float], total: float) -> dict[str, float]:
    """See ``health.gradients.scaled_to``; an unknown total leaves them as they are."""
    return scaled_to(norms, total) if total == total and total != float("inf") else norms


def mean_over_ranks(metrics: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """Means of 0-dim tensors over ranks, in one all-reduce. Collective."""
    ones = {"ranks": torch.ones((), device=device)}
    sums = sum_over_ranks({name: value.float().to(device) for name, value in metrics.items()} | ones)
    means = (torch.stack(list(sums.values())) / sums["ranks"]).tolist()  # one wait for the device
    return {name: mean for name, mean in zip(sums, means, strict=True) if name != "ranks"}
