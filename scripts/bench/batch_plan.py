"""Costs of the batch plan for 10 million short rows: start-up, memory, seconds per planned step, a far seek.

    python scripts/bench/batch_plan.py                     # 10 million rows, batch 4096; 1.1 GB of disk
    python scripts/bench/batch_plan.py --rows 1000000 --batch 1024

The store is written directly in its binary format (a query, a positive and a hard negative each of 2 to 6 tokens, one
text in ten repeated from another row), then opened and planned by a new process. The page cache is warm, as it is right
after tokenising. The last line is a JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from qwen3emb_train.data.batch_plan import BatchPlan  # noqa: E402
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig  # noqa: E402
from qwen3emb_train.data.store_parts import ARRAYS  # noqa: E402
from qwen3emb_train.data.token_store import TokenStore  # noqa: E402

ROWS_AT_ONCE = 1_000_000
VARIANTS = {
    "no text repeats": {},
    "and length buckets": {"length_buckets": True},
    "half of the steps mixed": {"mixed_share": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--planned", type=int, default=40, help="consecutive steps that are timed")
    parser.add_argument("--work", type=Path, help="where the store is made; default: a temporary directory")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments, VARIANTS[arguments.measure])))
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        size = write_synthetic_store(Path(work), arguments.rows)
        print(f"{arguments.rows:,} rows, {size / 1e9:.2f} GB, batch {arguments.batch:,}", flush=True)
        found = {}
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--measure", variant, "--work", work]
            for name in ("rows", "batch", "steps", "planned"):
                command += [f"--{name}", str(getattr(arguments, name))]
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                sys.exit(finished.stderr)
            found[variant] = json.loads(finished.stdout.splitlines()[-1])
            print(f"{variant}: {found[variant]}", flush=True)
    print(json.dumps({"headline": found["no text repeats"]["seconds_per_step"], "rows": arguments.rows, **found}))


def write_synthetic_store(directory: Path, num_rows: int) -> int:
    """Writes the arrays of ``TokenStore``; returns their bytes."""
    generator = np.random.default_rng(0)
    num_tokens = 0
    files = {name: (directory / f"{name}.bin").open("wb") for name in ARRAYS}
    for first in range(0, num_rows, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, num_rows - first)
        lengths = generator.integers(2, 7, 3 * rows)
        numbers = 3 * first + np.arange(3 * rows)
        from_elsewhere = generator.random(3 * rows) < 0.1
        numbers[from_elsewhere] = generator.integers(0, 3 * num_rows, int(from_elsewhere.sum()))
        columns = {
            "ids": generator.integers(0, 150_000, int(lengths.sum())),
            "text_ends": num_tokens + np.cumsum(lengths),
            "identities": numbers * 2_654_435_761,
            "row_ends": 3 * (first + 1 + np.arange(rows)),
            "num_positives": np.ones(rows),
        }
        num_tokens += int(lengths.sum())
        for name, values in columns.items():
            files[name].write(values.astype(ARRAYS[name]).tobytes())
    for file in files.values():
        file.close()
    return sum((directory / f"{name}.bin").stat().st_size for name in ARRAYS)


def measure(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, float]:
    """Two sources of half the rows each: the same store, once with ``max_rows``."""
    before = memory()
    start = time.perf_counter()
    arrays = {name: np.asarray(np.memmap(arguments.work / f"{name}.bin", dtype, "r")) for name, dtype in ARRAYS.items()}
    store = TokenStore(arguments.work, "key", "contents", 0, **arrays)
    sources = {"whole": SourceConfig(), "half": SourceConfig(max_rows=arguments.rows // 2)}
    plan = BatchPlan(
        sources, dict.fromkeys(sources, store), MixtureConfig(**settings), LengthConfig(),
        batch_size=arguments.batch, steps=arguments.steps, seed=0,
    )  # fmt: skip
    first_step = plan.step(0)
    start_up = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(1, 1 + arguments.planned):
        plan.step(step)
    per_step = (time.perf_counter() - start) / arguments.planned
    start = time.perf_counter()
    plan.step(arguments.steps - 1)
    seek = time.perf_counter() - start
    assert len(first_step.rows) == arguments.batch
    after = memory()
    return {
        "start_up_seconds": round(start_up, 3), "seconds_per_step": round(per_step, 4), "seek_seconds": round(seek, 4),
        "peak_rss_gb": round(after["VmHWM"], 3), "own_memory_gb": round(after["RssAnon"], 3),
        "own_memory_before_gb": round(before["RssAnon"], 3),
    }  # fmt: skip


def memory() -> dict[str, float]:
    """GB by name, of /proc/self/status: VmHWM counts the touched pages of the files too, RssAnon does not."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 / 1e9 for words in lines if words[-1] == "kB"}


if __name__ == "__main__":
    main()
