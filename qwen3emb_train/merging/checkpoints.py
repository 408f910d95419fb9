"""Selects checkpoints of a training run: the last, evenly spaced ones, or the best by a recorded metric."""

import json
from enum import Enum
from pathlib import Path

from qwen3emb_train.model_directory import STEP_DIRECTORY


class Selection(str, Enum):
    """``evenly``: evenly spaced over the run, with its last checkpoint. ``lowest`` and ``highest``: by a metric."""

    last = "last"
    evenly = "evenly"
    lowest = "lowest"
    highest = "highest"


def select_checkpoints(run_dir: Path, count: int, how: Selection = Selection.last, metric: str = "loss") -> list[Path]:
    """The model directories of ``count`` checkpoints, in the order of their steps.

    Args:
        run_dir: a training run's output directory: ``checkpoints/step_NNNNNN/model`` and ``metrics.jsonl``.
        count: number of checkpoints.
        how: last, evenly, lowest or highest.
        metric: a key of metrics.jsonl, for lowest and highest. A checkpoint's value is its mean over the lines
            since the previous checkpoint, because the value of one training step is that of one batch.

    Raises:
        FileNotFoundError: the run has no checkpoints, or no metrics.jsonl where one is needed.
        ValueError: there are fewer checkpoints than requested, or the metric was not recorded for one of them.
    """
    by_step = _checkpoints(run_dir)
    steps = sorted(by_step)
    if count < 1 or count > len(steps):
        raise ValueError(
            f"{run_dir}: {count} checkpoints are requested, and there are {len(steps)}: steps {steps}. "
            "Train with keep_last=null (keep all) and a smaller save_every, or lower count."
        )
    if how is Selection.last:
        chosen = steps[-count:]
    elif how is Selection.evenly:
        spacing = len(steps) / count
        chosen = [steps[round((i + 1) * spacing) - 1] for i in range(count)]
    else:
        values = _metric_values(run_dir / "metrics.jsonl", metric, steps)
        sign = 1.0 if how is Selection.lowest else -1.0
        chosen = sorted(sorted(steps, key=lambda step: (sign * values[step], -step))[:count])
    return [by_step[step] for step in chosen]


def _checkpoints(run_dir: Path) -> dict[int, Path]:
    found = {}
    for path in (run_dir / "checkpoints").glob("step_*"):
        match = STEP_DIRECTORY.fullmatch(path.name)
        if match and (path / "model").is_dir():
            found[int(match[1])] = path / "model"
    if not found:
        raise FileNotFoundError(
            f"{run_dir}: no checkpoints/step_NNNNNN/model in it. Give a training run's output_dir, or name the models."
        )
    return found


def _metric_values(path: Path, metric: str, steps: list[int]) -> dict[int, float]:
    """Mean of the metric between each checkpoint and the previous one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; without it choose select=last or select=evenly.")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    values = {}
    for previous, step in zip([0, *steps], steps, strict=False):
        recorded = [line[metric] for line in lines if previous < line["step"] <= step and metric in line]
        if not recorded:
            known = sorted({key for line in lines for key in line} - {"step"})
            raise ValueError(f"{path}: no {metric!r} between steps {previous} and {step}. Recorded there: {known}.")
        values[step] = sum(recorded) / len(recorded)
    return values
