"""Model FLOPs utilisation of whole training steps at Qwen3-0.6B's shape (random weights). For GPUs.

    python scripts/bench/mfu.py                          # H100/H200: 28 layers, bf16, texts of 64 - 512 tokens
    python scripts/bench/mfu.py --size 8B --layers 4
    python scripts/bench/mfu.py --smoke                  # does it run? a tiny shape on whatever device there is

MFU = 6 N T / (seconds x peak FLOP/s): N counts the weights of the layers' matrices (no embedding: a lookup multiplies
nothing), T real tokens only (there is no padding), and 6 is one forward and one backward pass. A replayed chunk costs
8 N in truth (HFU); attention's own products are left out, so long texts look worse than they are. The peak is the
card's dense bf16 figure (--peak-tflops). Prints tokens/s for graphs kept and replayed, and the largest batch that fits.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import print_result, synchronise  # noqa: E402


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        mean_length: tokens of a text.
        tokens_per_chunk: as in training.
        steps: timed, after one that is not.
        peak_tflops: dense bf16 figure of the card; None: no utilisation is computed.
    """

    mean_length: int = 256
    tokens_per_chunk: int = 16_384
    steps: int = 3
    peak_tflops: float | None = 989.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("0.6B", "4B", "8B"), default="0.6B")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--queries", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--mean-length", type=int, default=256)
    parser.add_argument("--tokens-per-chunk", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.smoke:
        print("no CUDA device: utilisation of a GPU cannot be measured here (--smoke runs the script itself)")
        print_result("mfu", None, skipped="no CUDA device")
        return
    from scripts.bench.random_steps import qwen3_shape, small_shape, write_random_model

    if arguments.smoke:
        arguments.queries, arguments.steps, arguments.mean_length = [8], 1, 16
    load = Load(arguments.mean_length, arguments.tokens_per_chunk, arguments.steps, arguments.peak_tflops)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = small_shape() if arguments.smoke else qwen3_shape(arguments.size, arguments.layers)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(write_random_model(Path(work), shape, device), arguments.queries, device, load)
    best = max((row["mfu"] for row in rows if "mfu" in row), default=None)
    print_result("mfu", best, rows=rows, device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu")


def measure(model: Path, queries: list[int], device: torch.device, load: Load) -> list[dict[str, Any]]:
    """A row for each number of queries, graphs replayed and kept; one that does not fit is marked.

    Args:
        model: directory; random weights do.
        queries: of a step, with one positive each.
        device: where it runs.
        load: lengths, chunks, steps.
    """
    from qwen3emb_train.models.precision import Precision, resolve_precision
    from qwen3emb_train.training.engines.engine import SingleEngine
    from scripts.bench.random_steps import load_on

    encoder = load_on(model, device)
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    engine = SingleEngine(encoder, optimizer, resolve_precision(Precision.auto, device), device)
    rows = []
    for count in queries:
        for kept in (False, True):
            try:
                rows.append(_timed(engine, count, kept, load))
            except torch.cuda.OutOfMemoryError:
                rows.append({"queries": count, "kept": kept, "out_of_memory": True})
                engine.discard()
                torch.cuda.empty_cache()
            print(f"{count:>7,} queries, graphs {'kept' if kept else 'replayed'}: {rows[-1]}", flush=True)
    return rows


def _timed(engine: Any, queries: int, kept: bool, load: Load) -> dict[str, Any]:
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.training.objectives import EmbeddingObjective
    from scripts.bench.random_steps import log_normal_lengths, random_batch, whole_step

    encoder, is_cuda = engine.model, engine.device.type == "cuda"
    weights = sum(p.numel() for name, p in encoder.named_parameters() if p.ndim == 2 and "embed" not in name)
    lengths = log_normal_lengths(2 * queries, load.mean_length)
    batch, tokens = random_batch(lengths, int(encoder.config.vocab_size)), int(lengths.sum())
    objective = EmbeddingObjective(engine, InfoNCE(), (), load.tokens_per_chunk, tokens if kept else 0)
    step = whole_step(objective, engine, batch)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    synchronise()
    started = time.perf_counter()
    for _ in range(load.steps):
        step()
    synchronise()
    seconds = (time.perf_counter() - started) / load.steps
    row = {"queries": queries, "kept": kept, "tokens": tokens, "tokens_per_second": round(tokens / seconds)}
    if load.peak_tflops is not None:
        row["mfu"] = round(6 * weights * tokens / seconds / (load.peak_tflops * 1e12), 4)
    return row | ({"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if is_cuda else {})


if __name__ == "__main__":
    main()
