"""The loss for growing numbers of columns: our tiles against a dense score matrix (and memeff's kernels on a GPU).

    python scripts/bench/loss_memory.py                        # 1k - 64k queries = columns, dim 128
    python scripts/bench/loss_memory.py --device cuda --dim 1024 --limit-gb 120
    python scripts/bench/loss_memory.py --queries 1024 --sizes 65536 --dim 1024     # one rank's rows of many
    python scripts/bench/loss_memory.py --sizes --prefixes 1024 512 256 128 64 --shape 4096 4096

Query-document InfoNCE with in-batch negatives, forward and backward; the losses are printed side by side. Each size
and implementation runs in its own process, which may use ``--limit-gb`` in addition to the interpreter, and reports its
seconds and the growth of its peak memory (of the device, on a GPU). Dense needs about 12 bytes per score (logits, their
softmax, their gradient): 52 GB at 64k.

With ``--prefixes`` also Eq. 1 with all its in-batch terms and masks on several Matryoshka dims: in one sweep (ours) and
one by one; ``--shape`` is the number of queries and columns.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from scripts.bench.rounds import interleaved, print_result, print_table, synchronise  # noqa: E402

TEMPERATURE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 4096, 16384, 32768, 65536])
    parser.add_argument("--queries", type=int, help="of each size; default: as many as columns")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cpu-seconds", action="store_true", help="the process's own, for a machine that is in use")
    parser.add_argument("--limit-gb", type=float, default=8.0, help="of a process, beside the interpreter")
    parser.add_argument("--prefixes", type=int, nargs="*", default=[])
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 4096], metavar=("QUERIES", "COLUMNS"))
    parser.add_argument("--run", nargs=2, metavar=("SIDE", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run[0], int(arguments.run[1]), arguments)
        return
    ratios, rows = compare_sizes(arguments) if arguments.sizes else ({}, [])
    sweep = compare_prefixes(arguments) if arguments.prefixes else None
    headline = list(ratios.values())[-1]["peak"] if ratios else sweep
    print_result(
        "loss_memory", headline, headline_is="dense peak over ours at the largest size that dense can do",
        ratios=ratios, sweep_over_one_by_one=sweep, rows=rows,
    )  # fmt: skip


def compare_sizes(arguments: argparse.Namespace) -> tuple[dict[int, dict[str, float]], list[dict[str, Any]]]:
    """Prints the table; returns dense over ours by size, and its rows."""
    sides = ["ours", "dense"] + (["memeff"] if arguments.device.startswith("cuda") else [])
    rows: list[dict[str, Any]] = []
    ratios: dict[int, dict[str, float]] = {}
    print(f"{'columns':>10}{'side':>9}{'seconds':>10} {'(least - most)':<18}{'peak GB':>9}{'loss':>12}")
    for size in arguments.sizes:
        found: dict[str, dict[str, float]] = {}
        for side in sides:
            results = [run(side, size, arguments) for _ in range(arguments.rounds)]
            if failed := [result for result in results if isinstance(result, str)]:
                print(f"{size:>10,}{side:>9}   failed: {failed[0]}", flush=True)
                rows.append({"columns": size, "side": side, "failed": failed[0]})
                continue
            seconds, peaks = ([result[key] for result in results] for key in ("seconds", "peak_gb"))  # type: ignore[index]
            found[side] = {"seconds": statistics.median(seconds), "peak_gb": statistics.median(peaks)}
            rows.append({"columns": size, "side": side, **found[side]})
            spread = f"({min(seconds):.2f} - {max(seconds):.2f})"
            print(
                f"{size:>10,}{side:>9}{found[side]['seconds']:>10.2f} {spread:<18}{found[side]['peak_gb']:>9.3f}"
                f"{results[0]['loss']:>12.6f}",  # type: ignore[index]
                flush=True,
            )
        if {"ours", "dense"} <= found.keys():
            ours, dense = found["ours"], found["dense"]
            ratios[size] = {
                "seconds": round(dense["seconds"] / ours["seconds"], 2),
                "peak": round(dense["peak_gb"] / max(ours["peak_gb"], 1e-3), 2),
            }
    return ratios, rows


def run(side: str, size: int, arguments: argparse.Namespace) -> dict[str, float] | str:
    """A child's figures, or why it failed."""
    command = [sys.executable, __file__, "--run", side, str(size), "--dim", str(arguments.dim)]
    command += ["--device", arguments.device, "--limit-gb", str(arguments.limit_gb)]
    command += [] if arguments.queries is None else ["--queries", str(arguments.queries)]
    command += ["--cpu-seconds"] * arguments.cpu_seconds
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        if "allocate" in finished.stderr:  # the allocators' words, on a CPU and on a GPU
            return f"more than {arguments.limit_gb:g} GB"
        return finished.stderr.strip().splitlines()[-1] if finished.stderr else f"exit {finished.returncode}"
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


def measure(side: str, size: int, arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(size, arguments.dim, generator=generator)
    documents = queries + 2 * torch.randn(size, arguments.dim, generator=generator)
    queries, documents = (x.to(device).requires_grad_() for x in (queries, documents))
    rows = size if arguments.queries is None else arguments.queries
    loss_of(side, queries[:64], documents[:64], min(rows, 64)).backward()  # warm up
    queries.grad = documents.grad = None
    limit_memory(device, arguments.limit_gb)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else peak()
    synchronise()
    clock = clock_of(arguments)
    started = clock()
    loss = loss_of(side, queries, documents, rows)
    loss.backward()
    synchronise()
    seconds = clock() - started
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak()
    print(json.dumps({"seconds": seconds, "peak_gb": (after - before) / 1e9, "loss": float(loss.detach())}))


def clock_of(arguments: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if arguments.cpu_seconds else time.perf_counter


def limit_memory(device: torch.device, gigabytes: float) -> None:
    """Makes further allocations beyond the limit an error, instead of exhausting the machine's memory."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def loss_of(side: str, queries: torch.Tensor, documents: torch.Tensor, rows: int) -> torch.Tensor:
    """
    Args:
        side: dense, memeff, ours, or "all terms": ours with everything that Eq. 1 has beside q-d.
        queries, documents: of all ranks, equally many.
        rows: how many queries have their loss taken here.
    """
    if side == "dense":
        logits = F.normalize(queries[:rows], dim=-1) @ F.normalize(documents, dim=-1).T / TEMPERATURE
        return F.cross_entropy(logits, torch.arange(rows, device=queries.device))
    if side == "memeff":
        from memeff import infonce

        if rows != len(queries):
            raise ValueError("memeff takes as many queries as columns")
        return infonce(F.normalize(queries, dim=-1), F.normalize(documents, dim=-1), temperature=TEMPERATURE)
    from qwen3emb_train.losses.infonce import InfoNCE

    is_whole = side == "all terms"
    loss = InfoNCE(
        temperature=TEMPERATURE, hard_negatives=False, query_query=is_whole, document_document=is_whole,
        false_negative_margin=0.1 if is_whole else None,
    )  # fmt: skip
    everything = representations(queries, documents)
    if rows == len(queries):
        return loss(everything).loss
    return loss(representations(queries[:rows], documents[:rows]), everything).loss


def representations(queries: torch.Tensor, documents: torch.Tensor) -> Any:
    """One positive for each query, no hard negatives, all texts different."""
    from qwen3emb_train.losses.embeddings import Embeddings

    numbers = torch.arange(len(queries), device=queries.device)
    none = numbers[:0]
    return Embeddings(queries, documents, documents[:0], numbers, none, numbers, numbers + 2**40, none)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare_prefixes(arguments: argparse.Namespace) -> float:
    """Prints the table; returns the ratio of one by one to one sweep."""
    from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
    from qwen3emb_train.losses.infonce import InfoNCE

    dims = arguments.prefixes
    num_queries, num_columns = arguments.shape
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_columns, max(dims), generator=generator)
    documents = queries + 4 * torch.randn(num_columns, max(dims), generator=generator)
    queries, documents = (x.to(arguments.device).requires_grad_() for x in (queries, documents))
    rows, columns = representations(queries[:num_queries], documents[:num_queries]), representations(queries, documents)
    loss = InfoNCE(hard_negatives=False, temperature=TEMPERATURE)

    def step(prefixes: list[int], one_by_one: bool) -> float:
        queries.grad = documents.grad = None
        on_prefixes = EmbeddingLoss.on_prefixes if one_by_one else InfoNCE.on_prefixes
        outputs = on_prefixes(loss, rows, columns, prefixes)
        total = torch.stack([output.loss for output in outputs]).mean()
        total.backward()
        return float(total.detach())

    steps = {
        "one by one": lambda: step(dims, True),
        "one sweep": lambda: step(dims, False),
        f"{max(dims)} alone": lambda: step([max(dims)], False),
    }
    losses = [steps[name]() for name in ("one by one", "one sweep")]
    if abs(losses[0] - losses[1]) > 1e-4:
        sys.exit(f"the losses differ: {losses}")
    print(f"\n{dims}: {num_queries:,} queries x {num_columns:,} columns, all terms; losses {losses}")
    seconds = interleaved(steps, arguments.rounds, warm_up=0, clock=clock_of(arguments))
    return print_table(seconds, seconds["one by one"], num_queries, "queries")["one sweep"]


if __name__ == "__main__":
    main()
