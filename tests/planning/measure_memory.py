"""Peak resident memory of two real training steps, in a process of its own.

python -m tests.planning.measure_memory SETTINGS_JSON   prints bytes above what was resident before loading.

The C library must give freed memory back at once, or its pools are measured instead: the caller sets
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ (see ``measure`` ).
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens, chunk_by_tokens
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig, build_optimizer


@dataclass(frozen=True)
class Setting:
    """One measured run: queries with one document each, lengths drawn from a range."""

    model: str
    warm_up_model: str
    lengths: tuple[int, ...]
    tokens_per_chunk: int
    retained_graph_tokens: int = 0
    lora_rank: int = 0
    bf16: bool = False
    activation_checkpointing: bool = False
    steps: int = 2


def make_batch(lengths: tuple[int, ...], vocabulary: int = 100) -> EmbeddingBatch:
    """Texts 0, 2, 4, ... are queries, the next ones their positives."""
    ids = [[(text * 31 + token * 7) % vocabulary for token in range(length)] for text, length in enumerate(lengths)]
    count = len(lengths) // 2
    rows = torch.arange(2 * count)
    nothing = torch.zeros(0, dtype=torch.long)
    return EmbeddingBatch(
        PackedTokens.from_lists(ids), rows[0::2], rows[1::2], torch.arange(count), nothing, nothing, text_hash=rows
    )


def chunk_lengths(lengths: tuple[int, ...], tokens_per_chunk: int) -> list[list[int]]:
    """The lengths in each chunk, as the gradient cache cuts them."""
    return [[lengths[i] for i in chunk] for chunk in chunk_by_tokens(torch.tensor(lengths), tokens_per_chunk)]


def measure(setting: Setting) -> int:
    """Bytes, from a fresh process."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", __name__, json.dumps(vars(setting))]
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])


def train(setting: Setting, model: str, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(rank=setting.lora_rank)
    encoder = load_encoder(
        ModelConfig(path=model, lora=lora, activation_checkpointing=setting.activation_checkpointing)
    )
    optimizer = build_optimizer(encoder, OptimizerConfig())
    precision = Precision.bf16 if setting.bf16 else Precision.fp32
    engine = SingleEngine(encoder, optimizer, precision, torch.device("cpu"))
    objective = EmbeddingObjective(
        engine=engine,
        loss=InfoNCE(),
        tokens_per_chunk=setting.tokens_per_chunk,
        retained_graph_tokens=setting.retained_graph_tokens,
    )
    for _ in range(setting.steps):
        objective.forward_backward(make_batch(lengths))
        assert engine.finish_backward(1.0)
        engine.update(1e-5)


def main(argument: str) -> None:
    torch.set_num_threads(1)
    values = json.loads(argument)
    setting = Setting(**(values | {"lengths": tuple(values["lengths"])}))
    train(setting, setting.warm_up_model, (8, 8))  # imports, code pages, thread pools
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    train(setting, setting.model, setting.lengths)
    print(_status("VmHWM") - before)


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
