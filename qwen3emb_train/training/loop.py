"""fit(): the loop. For every step: seed, batch, gradients, check, update, record, validate, save."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from qwen3emb_train.data.batches import TrainingBatch
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.training.checkpoints import TrainingState
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.health.non_finite import NonFinite, NonFiniteGuard, NonFinitePolicy
from qwen3emb_train.training.monitor import Monitor, mean_over_ranks, scaled
from qwen3emb_train.training.objective import Metrics, Objective
from qwen3emb_train.training.signals import StopSignal
from qwen3emb_train.training.tracking import Metric, Tracker
from qwen3emb_train.training.validation import Validation


@dataclass
class LoopConfig:
    """How often things happen.

    Attributes:
        max_grad_norm: gradients are scaled down to this L2 norm; null = never.
        log_every, save_every: in steps; save_every null = only at the end. The last step is always logged and saved.
        non_finite: what happens to a step with a NaN.
    """

    max_grad_norm: float | None = 1.0
    log_every: int = 10
    save_every: int | None = None
    non_finite: NonFinitePolicy = field(default_factory=NonFinitePolicy)


@dataclass(frozen=True, eq=False)
class StepSummary:
    """A step's totals over all ranks.

    Attributes:
        queries, tokens: of the global batch.
        loss: the mean over ranks.
        must_stop: some rank received a signal.
    """

    queries: int
    tokens: int
    loss: float
    must_stop: bool


def fit(
    objective: Objective,
    batch_at: Callable[[int], TrainingBatch],
    engine: Engine,
    lr_at: Callable[[int], float],
    *,
    steps: int,
    state: TrainingState,
    seed: int,
    config: LoopConfig,
    save: Callable[[TrainingState], None],
    stop: StopSignal,
    monitor: Monitor,
    tracker: Tracker | None = None,
    validation: Validation | None = None,
) -> TrainingState:
    """Does the steps ``state.step .. steps - 1``; every rank calls it.

    Args:
        objective: forward and backward pass of a step.
        batch_at: this rank's share of a step; a pure function of the step.
        engine: of the objective.
        lr_at: learning rate of a step; a pure function of the step.
        steps: of the whole run.
        state: where to begin.
        seed: of the randomness in a step.
        config: how often to log and save.
        save: called on every rank; writes a checkpoint.
        stop: a signal ends the run after the current step.
        monitor: diagnostics and alerts.
        tracker: on the main process only.
        validation: None = none.

    Returns:
        The state after the last step done: before ``steps`` if a signal asked to stop (it is saved then).

    Raises:
        NonFiniteError: on every rank, when one rank's loss or gradient is not finite; no update was applied.
    """
    guard = NonFiniteGuard(config.non_finite)
    speed = _Speed()
    engine.model.train()
    stop.only_note()
    if _is_due(validation, state, steps):  # the run was stopped during this validation
        state = _validate(validation, state, stop, tracker)
        if _is_due(validation, state, steps):  # and stopped during it again
            return state
    for step in range(state.step, steps):
        seed_step(engine, seed, step)
        lr = lr_at(step)
        batch = batch_at(step)
        loss_metrics = objective.forward_backward(batch)
        is_finite = engine.finish_backward(config.max_grad_norm)
        skipped = guard.check(
            step,
            batch,
            float(loss_metrics["loss"]),
            is_finite,
            objective.bad_queries,
            engine.named_gradients(),
            engine.device,
        )
        done = step + 1
        norms = monitor.gradient_norms() if monitor.is_due(done) and skipped is None else {}
        gradient_norm = float("nan")
        if skipped is None:
            gradient_norm = engine.update(lr)
        else:
            engine.discard()
        summary = reduce_step(batch, loss_metrics, stop, engine.device)
        state = replace(
            state,
            step=done,
            examples_seen=state.examples_seen + summary.queries,
            tokens_seen=state.tokens_seen + summary.tokens,
        )
        speed.add(summary.tokens)
        metrics: dict[str, Metric] = {"loss": summary.loss, "lr": lr, "grad_norm": gradient_norm}
        if monitor.is_due(done) and skipped is None:
            metrics |= monitor.diagnostics(done, scaled(norms, gradient_norm))
        objective.release()
        is_last = done == steps or summary.must_stop
        is_logged = done % config.log_every == 0 or is_last or step == 0 or skipped is not None or len(metrics) > 3
        if is_logged:
            metrics = mean_over_ranks(loss_metrics, engine.device) | metrics
            metrics |= {"tokens_per_second": speed.value(), "source": batch.source, "task": batch.task}
            metrics |= {"examples_seen": state.examples_seen, "tokens_seen": state.tokens_seen}

        if tracker is not None:
            _record(tracker, monitor, done, metrics, batch, skipped, is_logged=is_logged, speed=speed.value())
        must_stop = summary.must_stop
        if not must_stop and _is_due(validation, state, steps):
            state = _validate(validation, state, stop, tracker)
            must_stop = state.validated_step != done
        is_best = state.best_step == done
        if done == steps or must_stop or is_best or (config.save_every is not None and done % config.save_every == 0):
            save(state)
        if must_stop:
            break
    return state


def seed_step(engine: Engine, seed: int, step: int) -> None:
    """Seeds dropout as a function of (seed, step): a resumed step draws what the first attempt drew.

    Args:
        engine: whose model has the dropout.
        seed: of the run.
        step: 0-based.
    """
    of_step = seed * 1_000_003 + step
    engine.seed_dropout(of_step)  # by text: the same on every rank
    torch.manual_seed(of_step * 65_537 + rank())  # everything else that draws


def is_complete(state: TrainingState, steps: int, validation: Validation | None) -> bool:
    """Whether nothing is left to do: a signal may have interrupted the validation after the last step.

    Args:
        state: where the run stands.
        steps: of the whole run.
        validation: None = none.
    """
    return state.step == steps and not _is_due(validation, state, steps)


def _is_due(validation: Validation | None, state: TrainingState, steps: int) -> bool:
    if validation is None or state.step == 0 or state.validated_step == state.step:
        return False
    every = validation.config.every
    return state.step == steps or (every is not None and state.step % every == 0)


def _validate(
    validation: Validation | None, state: TrainingState, stop: StopSignal, tracker: Tracker | None
) -> TrainingState:
    """The state with the validation of its step in it, or unchanged if a signal came meanwhile."""
    assert validation is not None
    metrics = validation(stop)
    if metrics is None:
        return state
    if tracker is not None:
        tracker.log(state.step, metrics)
    value = metrics[validation.config.best_by.metric]
    if validation.config.is_better(value, state.best_value):
        state = replace(state, best_step=state.step, best_value=value)
    return replace(state, validated_step=state.step)


def reduce_step(batch: TrainingBatch, metrics: Metrics, stop: StopSignal, device: torch.device) -> StepSummary:
    """One small all-reduce a step: counts, the mean loss, and whether any rank received a signal. Collective.

    Args:
        batch: this rank's.
        metrics: this rank's; ``loss`` among them.
        stop: this rank's.
        device: of the engine.
    """
    own = [batch.num_queries, batch.texts.num_tokens, float(metrics["loss"]), float(stop.requested)]
    total = torch.tensor(own, dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.all_reduce(total)
    queries, tokens, loss, asked = total.tolist()
    return StepSummary(int(queries), int(tokens), loss / world_size(), asked > 0)


def _record(
    tracker: Tracker,
    monitor: Monitor,
    done: int,
    metrics: dict[str, Metric],
    batch: TrainingBatch,
    skipped: NonFinite | None,
    *,
    is_logged: bool,
    speed: float,
) -> None:
    if skipped is not None:
        metrics["skipped"] = str(skipped)
        tracker.say(f"update left out: {skipped}")
    if is_logged:
        tracker.log(done, metrics)
    monitor.judge(done, metrics, batch, tracker)
    loss = metrics["loss"]
    assert isinstance(loss, float)
    tracker.progress(done, loss, speed)


class _Speed:
    """Tokens per second over the last steps (so the first, with its warm-up costs, soon drops out)."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def add(self, tokens: int) -> None:
        self._marks = [*self._marks[-20:], (time.monotonic(), self._marks[-1][1] + tokens)]

    def value(self) -> float:
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - start, 1e-9)
