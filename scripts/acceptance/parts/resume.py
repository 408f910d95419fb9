"""A training run stopped by SIGTERM, and continued: exit code 75, then 0, and the losses of a run that nobody stopped.

The stopped run is a process, through the command line where hydra is installed, else through the function that it
calls.
"""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.acceptance.part import Row, Setup, is_installed, required, within

ROOT = Path(__file__).resolve().parent.parent.parent.parent
STOP_AFTER = 3  # logged steps
LIMIT_S = 200.0
# CPU: the same bits. GPU: some backward kernels add with atomics, and differences grow from step to step.
BOUND = {"cpu": 1e-6, "cuda": 2e-2}


def measure(setup: Setup) -> list[Row]:
    values = settings(setup)
    through = "the command line" if is_installed("hydra") else "train_embedding() (hydra is not installed)"
    log = setup.work / "stopped.log"
    code, seconds = stopped(command(values, setup.work / "stopped"), setup.work / "stopped", log)
    rows = [Row("through", through), required("exit code after SIGTERM", code, 75)]
    if code != 75:
        return [*rows, Row("last words", last_line(log))]
    at = max(losses(setup.work / "stopped"))
    rows += [Row("seconds from the signal to the exit", round(seconds, 2), "s"), Row("stopped after step", at)]
    with log.open("a") as file:
        code = subprocess.run(command(values, setup.work / "stopped"), cwd=ROOT, stdout=file, stderr=file).returncode
    rows.append(required("exit code of the same command again", code, 0))
    if code:
        return [*rows, Row("last words", last_line(log))]
    train(values, setup.work / "whole")
    found, whole = losses(setup.work / "stopped"), losses(setup.work / "whole")
    differences = {step: abs(found[step] / whole[step] - 1) for step in found.keys() & whole.keys()}
    after = [difference for step, difference in differences.items() if step > at]
    bound = BOUND["cuda" if setup.is_cuda else "cpu"]
    return [
        *rows,
        required("steps in metrics.jsonl", len(found), values["steps"]),
        Row("steps after the restart", len(after), bound="> 0", ok=len(after) > 0),
        Row("loss, first and last step", f"{found[min(found)]:.4f}, {found[max(found)]:.4f}"),
        within("loss of the first step after the restart, beside the unbroken run", differences[at + 1], bound,
               "relative"),
        within("loss, largest difference of all steps", max(differences.values()), bound, "relative"),
    ]  # fmt: skip


def settings(setup: Setup) -> dict[str, Any]:
    """Those of ``train_embedding``, as dotted keys, without output_dir."""
    from scripts.bench.random_steps import qwen3_shape, write_random_model
    from scripts.bench.rounds import training_pairs
    from tests.tiny import make_tiny_model_directory, make_tiny_tokenizer

    if setup.smoke:
        model = make_tiny_model_directory(setup.work / "model")
    else:
        model = write_random_model(setup.work / "model", qwen3_shape("0.6B", 8))
        make_tiny_tokenizer(model)
    rows = setup.work / "rows.jsonl"
    with rows.open("w") as file:
        for query, positive in training_pairs("", 64 if setup.smoke else 1024, made_up=True):
            file.write(json.dumps({"query": query, "positives": [positive]}) + "\n")
    return {
        "model.path": str(model), "data.made_up.path": str(rows), "batch_size": 8 if setup.smoke else 256,
        "steps": 40 if setup.smoke else 60, "tokens_per_chunk": 500 if setup.smoke else 16_384, "log_every": 1,
        "health_every": 1000, "optimizer.lr": 1e-5, "device": setup.device,
        "precision": "fp32" if setup.smoke else "auto", "cache_dir": str(setup.work / "cache"),
    }  # fmt: skip


def command(values: dict[str, Any], output_dir: Path) -> list[str]:
    if is_installed("hydra"):
        program = [sys.executable, "-m", "qwen3emb_train", "train_embedding"]
        return [*program, *(f"{key}={value}" for key, value in values.items()), f"output_dir={output_dir}"]
    return [sys.executable, "-m", __name__, json.dumps(values), str(output_dir)]


def stopped(command: list[str], output_dir: Path, log: Path) -> tuple[int, float]:
    """Starts it and sends SIGTERM once some steps are logged.

    Args:
        command: of the run.
        output_dir: of the run.
        log: what it prints.

    Returns:
        The exit code, and the seconds from the signal to the exit.
    """
    ends = time.monotonic() + LIMIT_S
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
        try:
            while process.poll() is None and len(losses(output_dir)) < STOP_AFTER:
                if time.monotonic() > ends:
                    raise TimeoutError(f"{STOP_AFTER} steps took more than {LIMIT_S:.0f} s")
                time.sleep(0.005)
            sent = time.monotonic()
            process.send_signal(signal.SIGTERM)
            return process.wait(LIMIT_S), time.monotonic() - sent
        finally:
            process.kill()
            process.wait()


def losses(output_dir: Path) -> dict[int, float]:
    """By step; a line that is just being written is left out.

    Raises:
        ValueError: a step is there twice.
    """
    path = output_dir / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    entries = [entry for entry in map(json.loads, lines) if "loss" in entry]
    found = {int(entry["step"]): float(entry["loss"]) for entry in entries}
    if len(found) != len(entries):
        raise ValueError(f"{path}: a step was logged twice")
    return found


def last_line(log: Path) -> str:
    return next(itertools.chain(reversed(log.read_text(errors="replace").strip().splitlines()), [""]))[:300]


def train(values: dict[str, Any], output_dir: Path) -> None:
    """The same run through Python."""
    from qwen3emb_train.data.mixture import SourceConfig
    from qwen3emb_train.models.loading import ModelConfig
    from qwen3emb_train.models.precision import Precision
    from qwen3emb_train.training.optimization import OptimizerConfig
    from qwen3emb_train.training.train_embedding import TrainEmbeddingConfig, train_embedding

    plain = {key: value for key, value in values.items() if "." not in key}
    config = TrainEmbeddingConfig(
        model=ModelConfig(path=values["model.path"]),
        data={"made_up": SourceConfig(path=values["data.made_up.path"])},
        optimizer=OptimizerConfig(lr=values["optimizer.lr"]), output_dir=str(output_dir),
        **{**plain, "precision": Precision(values["precision"])},
    )  # fmt: skip
    train_embedding(config)


def main(values: str, output_dir: str) -> int:
    """The exit code of the command line."""
    from qwen3emb_train.configuration.program import EXIT_STOPPED
    from qwen3emb_train.training.signals import StoppedBySignal

    try:
        train(json.loads(values), Path(output_dir))
    except StoppedBySignal as error:
        print(error, flush=True)
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
