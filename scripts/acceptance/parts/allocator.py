"""Memory that the caching allocator reserves beside what tensors take, with and without expandable segments.

Six steps of different sizes, in a process for each setting: torch reads it once. A smoke run tries the second alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from scripts.acceptance.part import Row, Setup

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SETTINGS = {"the default": "", "expandable segments": "expandable_segments:True"}
SIZES = (1.0, 0.6, 1.3, 0.4, 1.1, 0.8)  # of the steps


def measure(setup: Setup) -> list[Row]:
    from scripts.bench.random_steps import qwen3_shape, small_shape, write_random_model

    model = write_random_model(setup.work / "model", small_shape() if setup.smoke else qwen3_shape("0.6B", 28))
    rows: list[Row] = []
    for name, value in list(SETTINGS.items())[1 if setup.smoke else 0 :]:
        # The second is the name since torch 2.9, the first still works.
        environment = os.environ | {"PYTORCH_CUDA_ALLOC_CONF": value, "PYTORCH_ALLOC_CONF": value}
        command = [sys.executable, "-m", __name__, setup.device, str(model), str(int(setup.smoke))]
        finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if finished.returncode:
            lines = finished.stderr.strip().splitlines() or [f"exit {finished.returncode}"]
            rows.append(Row(name, lines[-1][:200], bound="runs", ok=False))
            continue
        found: dict[str, int] = json.loads(finished.stdout.splitlines()[-1])
        if not found:
            rows.append(Row(name, "the steps ran; the CPU has no caching allocator to measure"))
            continue
        rows += [
            Row(f"{name}: allocated at most", round(found["allocated"] / 1e9, 2), "GB"),
            Row(f"{name}: reserved at most", round(found["reserved"] / 1e9, 2), "GB"),
            Row(f"{name}: reserved over allocated", round(found["reserved"] / found["allocated"], 3), "x"),
        ]
    return rows


def main(device_name: str, model: str, smoke: str) -> None:
    """Prints peaks in bytes; nothing on a CPU."""
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.models.precision import Precision, resolve_precision
    from qwen3emb_train.training.engines.engine import SingleEngine
    from qwen3emb_train.training.objectives import EmbeddingObjective
    from scripts.bench.random_steps import load_on, log_normal_lengths, random_batch, whole_step

    device, is_smoke = torch.device(device_name), smoke == "1"
    encoder = load_on(Path(model), device)
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    engine = SingleEngine(encoder, optimizer, resolve_precision(Precision.auto, device), device)
    chunk, texts, mean = (100, 16, 12) if is_smoke else (16_384, 1024, 128)
    objective = EmbeddingObjective(engine, InfoNCE(), (), chunk, 2 * chunk)
    for size in SIZES[:2] if is_smoke else SIZES:
        lengths = log_normal_lengths(2 * int(size * texts / 2), mean)
        whole_step(objective, engine, random_batch(lengths, int(encoder.config.vocab_size)))()
    peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    print(json.dumps(peaks if device.type == "cuda" else {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
