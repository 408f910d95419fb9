"""What runs here: libraries, driver, GPU, and the attention kernel that the library chooses."""

import importlib.metadata
import platform
import subprocess

import torch

from qwen3emb_train.models.varlen import varlen_kernel_for
from scripts.acceptance.part import Row, Setup

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "accelerate", "deepspeed", "flash-attn", "hydra-core", "peft",
)  # fmt: skip


def measure(setup: Setup) -> list[Row]:
    """Never fails: what is absent is reported as absent."""
    rows = [Row("python", platform.python_version()), *(Row(name, version(name)) for name in PACKAGES)]
    rows.append(Row("CUDA of torch", str(torch.version.cuda or "none")))
    if setup.is_cuda:
        properties = torch.cuda.get_device_properties(0)
        rows += [
            Row("GPU", properties.name),
            Row("memory", round(properties.total_memory / 2**30, 1), "GiB"),
            Row("compute capability", f"{properties.major}.{properties.minor}"),
            Row("driver", driver()),
        ]
    kernel = varlen_kernel_for(torch.device(setup.device), torch.bfloat16, 128)
    name = "dense grids (no varlen kernel here)" if kernel is None else getattr(kernel, "__name__", str(kernel))
    return [*rows, Row("attention in bf16, head size 128", name)]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"unknown ({type(error).__name__})"
