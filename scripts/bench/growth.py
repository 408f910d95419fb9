"""Time per token and peak memory for growing batches and texts; both should be constant.

    python scripts/bench/growth.py                       # CPU: batch 256 - 8,192 short texts, lengths 32 - 2,048
    python scripts/bench/growth.py --device cuda --model Qwen/Qwen3-0.6B --layers 28

Whole training steps (chunks recomputed) on random token ids. The cost of attention per token grows with the length of a
text; the table shows how much. Each size runs in its own process. ``headline``: time per token at the largest batch
over that at the smallest (1 = flat).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import print_result, synchronise  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 4096, 8192])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens-per-chunk", type=int, default=4096)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-seconds", action="store_true", help="the process's own, for a machine that is in use")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--run", nargs=2, type=int, metavar=("QUERIES", "LENGTH"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.run:
        measure(*arguments.run, arguments)
        return
    if arguments.smoke:
        arguments.batches, arguments.lengths, arguments.hidden, arguments.layers = [8], [8], 32, 2
    from tests.tiny import make_tiny_model_directory

    with tempfile.TemporaryDirectory() as work:
        model = arguments.model or str(
            make_tiny_model_directory(Path(work), num_layers=arguments.layers, hidden_size=arguments.hidden)
        )
        short, total = min(arguments.lengths), max(arguments.lengths) * 8
        by_batch = [run(model, queries, short, arguments) for queries in arguments.batches]
        by_length = [run(model, max(total // length, 4), length, arguments) for length in arguments.lengths]
    per_token = [found["microseconds_per_token"] for found in by_batch]
    print_result(
        "growth", round(per_token[-1] / per_token[0], 3), by_batch=by_batch, by_length=by_length,
        memory_ratio=round(by_batch[-1]["peak_gb"] / max(by_batch[0]["peak_gb"], 1e-3), 3), device=arguments.device,
    )  # fmt: skip


def run(model: str, queries: int, length: int, arguments: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--run", str(queries), str(length), "--model", model, "--device", arguments.device,
        "--tokens-per-chunk", str(arguments.tokens_per_chunk), "--threads", str(arguments.threads),
        *["--cpu-seconds"][: arguments.cpu_seconds],
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    print(
        f"{queries:>7,} queries of {length:>5} tokens: {found['microseconds_per_token']:8.2f} us/token, peak "
        f"{found['peak_gb']:.3f} GB beyond loading",
        flush=True,
    )
    return found


def measure(queries: int, length: int, arguments: argparse.Namespace) -> None:
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.models.precision import Precision
    from qwen3emb_train.training.engines.engine import SingleEngine
    from qwen3emb_train.training.objectives import EmbeddingObjective
    from scripts.bench.random_steps import load_on, random_batch, whole_step

    device = torch.device(arguments.device)
    encoder = load_on(Path(arguments.model), device)
    engine = SingleEngine(encoder, torch.optim.AdamW(encoder.parameters(), fused=True), Precision.fp32, device)
    batch = random_batch(torch.full((2 * queries,), length), int(encoder.config.vocab_size))
    objective = EmbeddingObjective(engine, InfoNCE(hard_negatives=False), (), arguments.tokens_per_chunk, 0)
    step = whole_step(objective, engine, batch)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else peak()
    step()
    synchronise()
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    started = clock()
    step()
    synchronise()
    seconds = clock() - started
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak()
    per_token = seconds / (2 * queries * length) * 1e6
    print(json.dumps({"queries": queries, "length": length, "microseconds_per_token": round(per_token, 3),
                      "peak_gb": round((after - before) / 1e9, 4)}))  # fmt: skip


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
