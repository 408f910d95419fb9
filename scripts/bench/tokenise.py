"""Tokenising one JSONL file: one process beside as many as there are cores.

    python scripts/bench/tokenise.py --megabytes 300
    python scripts/bench/tokenise.py --megabytes 2000 --tokenizer MODEL_DIRECTORY

The file is made up (words of random letters, a query and a document a line) and the same each time. Each run writes a
store of its own, as training does; both stores must hold the same arrays. Prints seconds, MB/s and their ratio.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from qwen3emb_train.data.token_store import TokenStore, open_token_store  # noqa: E402
from qwen3emb_train.data.tokenization import load_tokenizer  # noqa: E402
from scripts.bench.rounds import print_result  # noqa: E402

_WORDS, _QUERY_WORDS, _DOCUMENT_WORDS = 50_000, 12, 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2000)
    parser.add_argument("--tokenizer", help="a model directory; without it a small one is made")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--directory", type=Path, help="where there is room for three times the file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        work = Path(name)
        source = write_corpus(work / "pairs.jsonl", arguments.megabytes)
        model = arguments.tokenizer or make_tokenizer(work / "model")
        size = source.stat().st_size / 1e6
        print(f"{size:,.0f} MB", flush=True)
        seconds, stores = {}, {}
        for processes in (1, arguments.processes):
            stores[processes], seconds[processes] = timed(work, source, model, processes)
            speed = size / seconds[processes]
            print(f"  {processes:3} processes {seconds[processes]:8.1f} s {speed:8.1f} MB/s", flush=True)
        first, last = stores[1], stores[arguments.processes]
        assert first.num_rows == last.num_rows
        assert np.array_equal(first.ids, last.ids), "the stores differ"
        ratio = round(seconds[1] / seconds[arguments.processes], 2)
    print_result("tokenise", ratio, megabytes=round(size), processes=arguments.processes, rows=first.num_rows)


def timed(work: Path, source: Path, model: str, processes: int) -> tuple[TokenStore, float]:
    """The store and how long it took.

    Args:
        work: for the store.
        source: the file.
        model: directory with a tokenizer.
        processes: to use.
    """
    tokenizer = load_tokenizer(model)
    started = time.perf_counter()
    store = open_token_store(source, tokenizer, cache_dir=work / f"stores_{processes}", processes=processes)
    return store, time.perf_counter() - started


def write_corpus(path: Path, megabytes: float) -> Path:
    """Lines of a query and its document, until the file is so large."""
    generator = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(_WORDS)]
    written, wanted = 0, megabytes * 1e6
    with path.open("w") as file:
        while written < wanted:
            row = {
                "query": " ".join(generator.choices(words, k=generator.randint(3, 2 * _QUERY_WORDS))),
                "positive": " ".join(generator.choices(words, k=generator.randint(20, 2 * _DOCUMENT_WORDS))),
            }
            written += file.write(json.dumps(row) + "\n")
    return path


def make_tokenizer(directory: Path) -> str:
    from tests.tiny import make_tiny_tokenizer

    directory.mkdir()
    make_tiny_tokenizer(directory)
    return str(directory)


if __name__ == "__main__":
    main()
