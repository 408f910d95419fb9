"""Through ``accelerate launch``: two processes end where one does."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from qwen3emb_train.training.engines.launch import start
from qwen3emb_train.training.signals import StopSignal
from tests.ranks import run_on_ranks
from tests.training.setup import write_rows


def test_accelerate_launch_on_two_ranks_trains_the_model_of_one(tiny_qwen3: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")

    def arguments(output: str) -> list[str]:
        return [
            "-m", "qwen3emb_train", "train_embedding", f"model.path={tiny_qwen3}", f"data.rows.path={rows}",
            "batch_size=8", "steps=4", "tokens_per_chunk=100", "precision=fp32", "device=cpu", "optimizer.lr=1e-4",
            f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / output}", "log_every=1",
        ]  # fmt: skip

    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    # On CPU, --multi_gpu is what makes the launcher start more than one process (--cpu starts one).
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launched = subprocess.run([*launcher, *arguments("two")], env=environment, capture_output=True, text=True)
    assert launched.returncode == 0, launched.stderr
    assert "2 rank(s)" in launched.stdout
    subprocess.run([sys.executable, *arguments("one")], env=environment, check=True, capture_output=True)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    start = load_file(tiny_qwen3 / "model.safetensors")
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=0, atol=2e-5)  # 4 steps of Adam move 4e-4
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    assert moved > 2e-4


def waits_longer_than_a_collective_may(port: int) -> list[float]:
    dist.destroy_process_group()
    os.environ["MASTER_PORT"] = str(port)
    start("cpu", timeout_s=1.0)
    waited = []
    with StopSignal() as stop:
        for _ in range(2):
            began = time.monotonic()
            if dist.get_rank() == 0:
                time.sleep(2.0)
            stop.wait_for_all()
            waited.append(time.monotonic() - began)
    dist.barrier()
    return waited


def test_ranks_wait_for_a_busy_one_longer_than_the_time_limit_of_collectives() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    busy, waiting = run_on_ranks(waits_longer_than_a_collective_may, 2, port)
    assert min(busy) >= 2.0
    assert min(waiting) > 1.5
