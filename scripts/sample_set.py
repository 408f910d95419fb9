"""Samples a judged set: some queries, all documents judged for them, and random other documents, in the same layout.

    python scripts/sample_set.py --set DIRECTORY --queries 400 --documents 4000 --output DIRECTORY

For evaluating on large sets with a small machine. Scores on a sample are higher than on the whole set, as there are
fewer distractors: compare only scores on the same sample, and report which one it is.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qwen3emb_train import lineage
from qwen3emb_train.data.retrieval_set import load_retrieval_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, type=Path, help="BEIR layout: corpus.jsonl, queries.jsonl, qrels")
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", required=True, type=int)
    parser.add_argument("--documents", required=True, type=int, help="minimum number, including the judged ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, type=Path, help="must not exist")
    arguments = parser.parse_args()
    data = load_retrieval_set(arguments.set, arguments.split)
    rng = random.Random(arguments.seed)
    chosen = sorted(rng.sample(range(len(data.queries)), min(arguments.queries, len(data.queries))))
    judged = {document for row in chosen for document in data.relevance[data.query_ids[row]]}
    others = [document for document in data.document_ids if document not in judged]
    num_others = min(max(0, arguments.documents - len(judged)), len(others))
    kept = judged | set(rng.sample(others, num_others))
    with (
        lineage.atomic_directory(arguments.output) as directory,
        (arguments.set / "corpus.jsonl").open(encoding="utf-8") as lines,
    ):
        rows = [line for line in lines if json.loads(line)["_id"] in kept]
        lineage.write_text(directory / "corpus.jsonl", "".join(rows))
        queries = [{"_id": data.query_ids[row], "text": data.queries[row]} for row in chosen]
        lineage.write_text(
            directory / "queries.jsonl", "".join(json.dumps(q, ensure_ascii=False) + "\n" for q in queries)
        )
        judgements = ["query-id\tcorpus-id\tscore"]
        for row in chosen:
            query = data.query_ids[row]
            judgements += [f"{query}\t{document}\t{grade}" for document, grade in data.relevance[query].items()]
        (directory / "qrels").mkdir()
        lineage.write_text(directory / "qrels" / f"{arguments.split}.tsv", "\n".join(judgements) + "\n")
    print(f"{arguments.output}: {len(chosen):,} queries, {len(rows):,} documents")


if __name__ == "__main__":
    main()
