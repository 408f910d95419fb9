"""fit(): the loop. For every step: seed, rate, batch, gradients, clip, update, record, save."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.distributed import any_rank, rank, world_size
from qwen3emb_train.training.checkpoints import TrainingState
from qwen3emb_train.training.health import refuse_non_finite, verdicts
from qwen3emb_train.training.objectives import Metrics, Objective
from qwen3emb_train.training.tracking import Tracker


@dataclass
class LoopConfig:
    """How often things happen.

    Attributes:
        max_grad_norm: gradients are scaled down to this L2 norm; null = never.
        log_every, save_every: in steps; save_every null = only at the end. The last step is always logged and saved.
    """

    max_grad_norm: float | None = 1.0
    log_every: int = 10
    save_every: int | None = None


def fit(
    objective: Objective,
    batch_at: Callable[[int], EmbeddingBatch],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    *,
    steps: int,
    state: TrainingState,
    seed: int,
    config: LoopConfig,
    save: Callable[[TrainingState], None],
    tracker: Tracker | None = None,
) -> TrainingState:
    """Does the steps ``state.step .. steps - 1``.

    Args:
        batch_at: this rank's share of a step; a pure function of the step.
        model: the trained (unwrapped) model.
        lr_at: learning rate of a step; a pure function of the step.
        state: where to begin.
        save: called on every rank; writes a checkpoint.
        tracker: on the main process only.

    Returns:
        The state after the last step done: before ``steps`` if a signal asked to stop (it is saved then).

    Raises:
        NonFiniteError: on every rank, when one rank's loss or gradient is not finite; no update was applied.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    said: set[str] = set()
    speed = _Speed()
    model.train()
    with StopSignal() as stop:
        for step in range(state.step, steps):
            seed_step(seed, step)
            lr = lr_at(step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch = batch_at(step)
            metrics = objective.forward_backward(batch)
            limit = float("inf") if config.max_grad_norm is None else config.max_grad_norm
            gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            is_finite = bool(torch.isfinite(gradient_norm) & torch.isfinite(metrics["loss"]))
            if any_rank(not is_finite, device):
                refuse_non_finite(
                    step, batch.source, float("nan") if is_finite else float(metrics["loss"]), float(gradient_norm)
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            num_tokens = _sum_over_ranks(batch.texts.num_tokens, device)
            num_queries = _sum_over_ranks(len(batch.query_rows), device)
            state = replace(
                state,
                step=done,
                examples_seen=state.examples_seen + num_queries,
                tokens_seen=state.tokens_seen + num_tokens,
            )
            speed.add(num_tokens)
            must_stop = any_rank(stop.requested, device)
            is_last = done == steps or must_stop
            if done % config.log_every == 0 or is_last or step == 0:
                figures = mean_over_ranks(metrics, device)
                figures |= {"lr": lr, "grad_norm": float(gradient_norm), "tokens_per_second": speed.value()}
                figures |= {"examples_seen": state.examples_seen, "tokens_seen": state.tokens_seen}
                if tracker is not None:
                    tracker.log(done, figures)
                    if done * 5 >= steps:  # before that, vectors of an untrained model may well all look alike
                        _say_verdicts(tracker, done, figures, said)
            if tracker is not None:
                tracker.progress(done, float(metrics["loss"]), speed.value())
            if is_last or (config.save_every is not None and done % config.save_every == 0):
                save(state)
            if must_stop:
                if tracker is not None:
                    tracker.say(f"stopped by a signal after step {done}; saved. The same command continues.")
                break
    return state


def seed_step(seed: int, step: int) -> None:
    """Dropout's randomness as a function of (seed, step, rank): a resumed step draws what the first attempt drew."""
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + rank())


def mean_over_ranks(metrics: Metrics, device: torch.device) -> dict[str, float]:
    names = sorted(metrics)
    values = torch.stack([metrics[name].float().to(device) for name in names])
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return dict(zip(names, values.tolist(), strict=True))


def _sum_over_ranks(count: int, device: torch.device) -> int:
    if world_size() == 1:
        return count
    total = torch.tensor(count, device=device)
    dist.all_reduce(total)
    return int(total)


def _say_verdicts(tracker: Tracker, step: int, figures: Mapping[str, float], said: set[str]) -> None:
    for remark in verdicts(figures):
        if remark not in said:
            said.add(remark)
            tracker.say(f"step {step}: {remark}")


class _Speed:
    """Tokens per second over the last steps (the first one, with its warm-up costs, is soon forgotten)."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def add(self, tokens: int) -> None:
        self._marks = [*self._marks[-20:], (time.monotonic(), self._marks[-1][1] + tokens)]

    def value(self) -> float:
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - start, 1e-9)


class StopSignal:
    """SIGTERM or SIGUSR1 (what a scheduler sends before it takes the machine) asks the loop to save and leave."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
