"""Examples with random negatives from the whole corpus: the baseline for mined negatives in the ablation.

python recipes/open-small/random_negatives.py --examples TRAIN.jsonl --corpus CORPUS.jsonl --output EXAMPLES.jsonl
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import write_examples

NUM_NEGATIVES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--examples", "--corpus", "--output"):
        parser.add_argument(name, required=True, type=Path)
    arguments = parser.parse_args()
    documents = list(read_texts(arguments.corpus).values())
    rng = random.Random(0)
    examples = read_examples(arguments.examples)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_examples(
        arguments.output,
        (
            # One more than needed, in case a positive is among them.
            replace(
                example,
                negatives=tuple(
                    text for text in rng.sample(documents, NUM_NEGATIVES + 1) if text not in example.positives
                )[:NUM_NEGATIVES],
            )
            for example in examples
        ),
    )


if __name__ == "__main__":
    main()
