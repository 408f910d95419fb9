"""The loss over ever more columns: our tiles beside a dense score matrix (and memeff's kernels on a GPU).

    python scripts/bench/loss_memory.py                        # 1k - 64k queries = columns, dim 128
    python scripts/bench/loss_memory.py --device cuda --dim 1024

Query-document InfoNCE with in-batch negatives, forward and backward; the losses are printed side by side. Each size and
side runs in a process of its own, which reports its seconds and the growth of its peak memory (the device's, on a GPU).
Dense needs some 12 bytes a score (logits, their softmax, their gradient): 52 GB at 64k; beyond --dense-bytes it is left
out.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from scripts.bench.rounds import print_result, synchronise  # noqa: E402

TEMPERATURE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dense-bytes", type=float, default=16e9, help="dense is left out where it would need more")
    parser.add_argument("--run", nargs=2, metavar=("SIDE", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run[0], int(arguments.run[1]), arguments)
        return
    sides = ["ours", "dense"] + (["memeff"] if arguments.device.startswith("cuda") else [])
    rows, memory = [], {}
    print(f"{'columns':>10}{'side':>9}{'seconds':>10}{'peak GB':>10}{'loss':>12}")
    for size in arguments.sizes:
        for side in sides:
            if side == "dense" and 12.0 * size * size > arguments.dense_bytes:
                print(f"{size:>10,}{side:>9}{'-':>10}{12e-9 * size * size:>9.0f}+{'left out':>12}")
                continue
            command = [sys.executable, __file__, "--run", side, str(size), "--dim", str(arguments.dim)]
            finished = subprocess.run([*command, "--device", arguments.device], capture_output=True, text=True)
            if finished.returncode:
                reason = finished.stderr.strip().splitlines()[-1] if finished.stderr else f"exit {finished.returncode}"
                print(f"{size:>10,}{side:>9}   failed: {reason}")
                continue
            found = json.loads(finished.stdout.splitlines()[-1])
            rows.append({"columns": size, "side": side, **found})
            memory[side, size] = found["peak_gb"]
            print(f"{size:>10,}{side:>9}{found['seconds']:>10.2f}{found['peak_gb']:>10.3f}{found['loss']:>12.6f}")
    common = max((size for side, size in memory if side == "dense"), default=None)
    headline = None if common is None else round(memory["dense", common] / max(memory["ours", common], 1e-3), 2)
    print_result("loss_memory", headline, headline_is="dense peak over ours at the largest common size", rows=rows)


def measure(side: str, size: int, arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(size, arguments.dim, generator=generator)
    documents = queries + 2 * torch.randn(size, arguments.dim, generator=generator)
    queries, documents = (x.to(device).requires_grad_() for x in (queries, documents))
    loss_of(side, queries[:64], documents[:64]).backward()  # warm up
    queries.grad = documents.grad = None
    before = torch.cuda.memory_allocated() if device.type == "cuda" else peak()
    synchronise()
    started = time.perf_counter()
    loss = loss_of(side, queries, documents)
    loss.backward()
    synchronise()
    seconds = time.perf_counter() - started
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak()
    print(json.dumps({"seconds": seconds, "peak_gb": (after - before) / 1e9, "loss": float(loss.detach())}))


def loss_of(side: str, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    if side == "dense":
        logits = F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T / TEMPERATURE
        return F.cross_entropy(logits, torch.arange(len(queries), device=queries.device))
    if side == "memeff":
        from memeff import infonce

        return infonce(F.normalize(queries, dim=-1), F.normalize(documents, dim=-1), temperature=TEMPERATURE)
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.losses.representations import Representations

    numbers = torch.arange(len(queries), device=queries.device)
    none = numbers[:0]
    loss = InfoNCE(
        temperature=TEMPERATURE, hard_negatives=False, query_query=False, document_document=False,
        false_negative_margin=None,
    )  # fmt: skip
    return loss(
        Representations(queries, documents, documents[:0], numbers, none, numbers, numbers + len(numbers), none)
    ).loss


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
