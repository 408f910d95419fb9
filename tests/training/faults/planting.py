"""What is planted in a rank before the command runs: a trace of every step, and faults at named points.

A fault is ``{"point": ..., "step": ..., "rank": ..., "do": ...}``; ``step`` is 0-based. Points, in the order of a run:

    start        before the command
    opening      data are opened and tokenised
    batch        step begins: nothing done yet
    gradients    gradients are there, not exchanged over what comes after
    updated      weights are updated, nothing is recorded
    validating   in front of the second held-out batch after ``step`` + 1 steps
    saving       in front of the checkpoint of ``step`` + 1 steps
    pieces       this rank's state files are written, nothing is published
    publishing   in front of the rename that makes the checkpoint
    published    after it, older checkpoints still there
    finishing    the model is linked, run.json is not written

``do`` is a signal's name (sent to itself), "wait", "later SIG..." (once the other rank does "wait"), "NaN vectors",
"NaN gradients" or "see no checkpoints".
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.training import checkpoints, loop, stage
from qwen3emb_train.training.engines import launch
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.objectives import EmbeddingObjective

_STEP = {"now": -1}


def plant(job: dict[str, Any], rank: int) -> None:
    """Patches this process; meant for one that ends with the run."""
    faults = [fault for fault in job.get("faults", []) if fault.get("rank", rank) == rank]
    trace = Path(job["directory"]) / f"trace_{rank}.jsonl"
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text("")

    def reached(point: str) -> None:
        for fault in faults:
            if fault["point"] == point and fault.get("step", _STEP["now"]) == _STEP["now"]:
                _do(fault["do"], Path(job["directory"]))

    if "saves" not in job:
        # A killed process loses nothing that it has written; only a machine would.
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
    _count_steps()
    _patch(stage, "_open", before=lambda: reached("opening"))
    _patch(checkpoints.Checkpoints, "save", before=lambda: reached("saving"))
    _patch(checkpoints, "write_pieces", after=lambda: reached("pieces"))
    _patch(stage, "write_record", before=lambda: reached("finishing"))
    _patch_rename(reached)
    _patch_evaluate(reached)
    _patch_fit(reached, trace)
    reached("start")
    if any(fault["do"].startswith("NaN") for fault in faults):
        _plant_nan([fault for fault in faults if fault["do"].startswith("NaN")])
    if "saves" in job:
        from tests.training.faults.torn_saves import try_every_fault

        try_every_fault(job["saves"], rank, Path(job["directory"]))


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        found.update(f"{name} {tuple(local.shape)}".encode() + local.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def digest_batch(batch: EmbeddingBatch) -> str:
    tensors: list[tuple[str, Tensor]] = []
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            tensors.append((field.name, value))
    texts = [(name, getattr(batch.texts, name)) for name in ("input_ids", "cu_seqlens", "position_ids")]
    return f"{batch.task} {batch.source} {digest_tensors(texts + tensors)}"


def _do(action: str, directory: Path) -> None:
    if action == "wait":  # for a signal, as long as it takes to tokenise a large file
        (directory / "waiting").touch()
        time.sleep(60)
        raise AssertionError("nobody sent a signal")
    if action == "see no checkpoints":
        checkpoints.Checkpoints.latest = lambda self: None  # type: ignore[method-assign]
    elif action.startswith("later "):
        _signal_later(directory / "waiting", action.removeprefix("later "))
    elif action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))


def _signal_later(when_exists: Path, name: str) -> None:
    """A process of its own sends the signal: this one may be deep inside a wait."""
    own = os.getpid()
    if os.fork() == 0:
        while not when_exists.exists():
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(own, getattr(signal, name))
        os._exit(0)


def _patch(
    owner: Any, name: str, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        before()
        result = original(*arguments, **named)
        after()
        return result

    setattr(owner, name, wrapped)


def _count_steps() -> None:
    original = loop.seed_step

    def seed_step(engine: Engine, seed: int, step: int) -> None:
        _STEP["now"] = step
        original(engine, seed, step)

    loop.seed_step = seed_step


def _patch_rename(reached: Callable[[str], None]) -> None:
    original = Path.rename

    def rename(self: Path, target: Any) -> Path:
        is_publication = Path(target).name.startswith("step_")
        if is_publication:
            reached("publishing")
        result = original(self, target)
        if is_publication:
            reached("published")
        return result

    Path.rename = rename  # type: ignore[method-assign, assignment]


def _patch_evaluate(reached: Callable[[str], None]) -> None:
    original = EmbeddingObjective.evaluate
    calls = {"step": -1, "number": 0}

    def evaluate(self: EmbeddingObjective, batch: EmbeddingBatch) -> Any:
        if calls["step"] != _STEP["now"]:
            calls.update(step=_STEP["now"], number=0)
        calls["number"] += 1
        if calls["number"] == 2:
            reached("validating")
        return original(self, batch)

    EmbeddingObjective.evaluate = evaluate  # type: ignore[method-assign]


def _patch_fit(reached: Callable[[str], None], trace: Path) -> None:
    original = loop.fit

    def fit(objective: Any, batch_at: Any, engine: Engine, lr_at: Any, **named: Any) -> Any:
        def traced_batch(step: int) -> EmbeddingBatch:
            batch = batch_at(step)
            with torch.random.fork_rng(devices=[]):
                draws = torch.rand(4).tolist()
            line = {
                "step": step,
                "batch": digest_batch(batch),
                "lr": lr_at(step),
                "draws": draws,
                "weights": digest_tensors(engine.model.named_parameters()),
            }
            with trace.open("a") as file:
                file.write(json.dumps(line) + "\n")
            reached("batch")
            return batch

        for name, before, after in (("finish_backward", "gradients", ""), ("update", "", "updated")):
            plain = getattr(engine, name)

            def wrapped(
                *arguments: Any, plain: Any = plain, before: str = before, after: str = after, **more: Any
            ) -> Any:
                reached(before)
                result = plain(*arguments, **more)
                reached(after)
                return result

            setattr(engine, name, wrapped)
        return original(objective, traced_batch, engine, lr_at, **named)

    setattr(stage, "fit", fit)  # noqa: B010


def _plant_nan(faults: list[dict[str, Any]]) -> None:
    """Poisons the first text's vector, or the gradient of the last norm before it is exchanged between ranks."""

    def active(kind: str) -> bool:
        return any(fault["do"] == f"NaN {kind}" and fault["step"] == _STEP["now"] for fault in faults)

    build = launch.build_engine

    def build_poisoned(launched: Any, encoder: Any, *arguments: Any, **named: Any) -> Engine:
        poison = lambda gradient: gradient * float("nan") if active("gradients") else gradient  # noqa: E731
        encoder.backbone.norm.weight.register_hook(poison)
        engine = build(launched, encoder, *arguments, **named)
        forward = engine.forward

        def forward_poisoned(tokens: Any, *, last: bool = False) -> Tensor:
            vectors = forward(tokens, last=last)
            if active("vectors"):
                spoilt = torch.ones_like(vectors)
                spoilt[0] = float("nan")
                vectors = vectors * spoilt
            return vectors

        engine.forward = forward_poisoned  # type: ignore[method-assign]
        return engine

    setattr(stage, "build_engine", build_poisoned)  # noqa: B010
