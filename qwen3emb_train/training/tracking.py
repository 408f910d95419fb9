"""Where a run's metrics go: ``metrics.jsonl`` always, the console, and one tracker if asked for. Main process only."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qwen3emb_train.lineage import write_text
from qwen3emb_train.training.health.report import without_nan
from qwen3emb_train.training.health.vectors import HISTOGRAM_EDGES

# A number, a string (for metrics.jsonl only), or the counts of a histogram, whose name then ends in _histogram.
Metric = float | int | str | list[float]


class TrackerKind(str, Enum):
    """``wandb`` works without an account under WANDB_MODE=offline."""

    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass
class TrackingConfig:
    """An experiment tracker beside metrics.jsonl.

    Attributes:
        kind: which tracker.
        project: of wandb.
        run_name: of wandb; null = the output directory's name.
    """

    kind: TrackerKind = TrackerKind.none
    project: str = "qwen3emb_train"
    run_name: str | None = None


@runtime_checkable
class _Backend(Protocol):
    def log(self, step: int, metrics: Mapping[str, float], histograms: Mapping[str, list[float]]) -> None: ...
    def close(self) -> None: ...


class Tracker:
    """Writes one JSON object a logged step, shows progress, feeds the backend. Close it.

    On a terminal progress is a bar with loss, tokens/s and time left; elsewhere (a SLURM log) a line every few seconds.

    Args:
        output_dir: of the run.
        config: which experiment tracker.
        run_config: the run's settings, as JSON values; for the tracker.
        steps: of the whole run.
        first_step: steps done when the run (re)started; recorded lines of later steps are removed.
    """

    def __init__(
        self, output_dir: Path, config: TrackingConfig, run_config: Mapping[str, Any], *, steps: int, first_step: int
    ) -> None:
        self.path = output_dir / "metrics.jsonl"
        _forget_after(self.path, first_step)
        self.steps = steps
        self._file = self.path.open("a", encoding="utf-8")
        self._backend = _build_backend(output_dir, config, run_config)
        self._progress = _Bar(steps, first_step) if sys.stderr.isatty() else _Lines(steps)

    def log(self, step: int, metrics: Mapping[str, Metric]) -> None:
        """Records the metrics of the ``step``-th step (counted from 1); what is not finite is written as null."""
        self._file.write(json.dumps({"step": step, **without_nan(metrics)}) + "\n")
        self._file.flush()
        if self._backend is not None:
            numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
            self._backend.log(step, numbers, histograms_of(metrics))

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Shows how far the run is.

        Args:
            step: steps done.
            loss: of the last one.
            tokens_per_second: over the last few.
        """
        self._progress.update(step, loss, tokens_per_second)

    def say(self, text: str) -> None:
        """Prints a line without breaking the progress bar."""
        self._progress.say(text)

    def close(self) -> None:
        self._progress.close()
        self._file.close()
        if self._backend is not None:
            self._backend.close()


def histograms_of(metrics: Mapping[str, Metric]) -> dict[str, list[float]]:
    """The metrics that are counts over ``HISTOGRAM_EDGES``."""
    return {name: value for name, value in metrics.items() if name.endswith("_histogram") and isinstance(value, list)}


class _Bar:
    def __init__(self, steps: int, first_step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tokens/s  ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("training", total=steps, completed=first_step, loss=float("nan"), speed=0.0)
        self._bar.start()

    def update(self, step: int, loss: float, speed: float) -> None:
        self._bar.update(self._task, completed=step, loss=loss, speed=speed)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """For logs: a line at most every ten seconds, and one for the last step."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._started = self._last = time.monotonic()
        self._first: int | None = None

    def update(self, step: int, loss: float, speed: float) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = step, now
        if step < self._steps and now - self._last < 10:
            return
        self._last = now
        done = step - self._first
        left = f"  ETA {(now - self._started) / done * (self._steps - step):.0f} s" if done else ""
        self.say(f"step {step}/{self._steps}  loss {loss:.4f}  {speed:,.0f} tokens/s{left}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _forget_after(path: Path, step: int) -> None:
    """Drops lines of steps that will be repeated, and a line that a kill left incomplete."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


def _build_backend(output_dir: Path, config: TrackingConfig, run_config: Mapping[str, Any]) -> _Backend | None:
    match config.kind:
        case TrackerKind.none:
            return None
        case TrackerKind.wandb:
            return _Wandb(output_dir, config, run_config)
        case TrackerKind.tensorboard:
            return _TensorBoard(output_dir)


class _Wandb:
    def __init__(self, output_dir: Path, config: TrackingConfig, run_config: Mapping[str, Any]) -> None:
        import wandb

        # One id for each output directory, so that a resumed run continues its curves.
        id_file = output_dir / "wandb_id.txt"
        if not id_file.is_file():
            write_text(id_file, os.urandom(8).hex())
        self._run = wandb.init(
            project=config.project,
            name=config.run_name or output_dir.name,
            id=id_file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(output_dir),
            config=dict(run_config),
        )

    def log(self, step: int, metrics: Mapping[str, float], histograms: Mapping[str, list[float]]) -> None:
        from wandb import Histogram

        drawn = {name: Histogram(np_histogram=(counts, HISTOGRAM_EDGES)) for name, counts in histograms.items()}
        self._run.log({**metrics, **drawn}, step=step)

    def close(self) -> None:
        self._run.finish()


class _TensorBoard:
    def __init__(self, output_dir: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ValueError("tracking.kind=tensorboard needs: pip install 'qwen3emb-train[tensorboard]'") from error
        self._writer = SummaryWriter(str(output_dir / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float], histograms: Mapping[str, list[float]]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        middles = [(low + high) / 2 for low, high in pairwise(HISTOGRAM_EDGES)]
        for name, counts in histograms.items():
            self._writer.add_histogram_raw(
                name, min=-1.0, max=1.0, num=int(sum(counts)),
                sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
                sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
                bucket_limits=HISTOGRAM_EDGES[1:], bucket_counts=counts, global_step=step,
            )  # fmt: skip

    def close(self) -> None:
        self._writer.close()
