"""On a real public set beside the project: our readers accept it, our BM25 row is the known one."""

import os
from pathlib import Path

import pytest

from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, SetConfig, evaluate

DATA = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "nl2bash"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the public data set nl2bash is not at {DATA} (set QWEN3EMB_DATA)"),
]


def test_every_line_of_a_real_training_file_is_an_example() -> None:
    examples = list(read_examples(DATA / "train.jsonl"))
    assert len(examples) == 9038
    assert all(example.positives for example in examples)


def test_bm25_scores_what_others_measured(tmp_path: Path) -> None:
    """0.422 nDCG@10 with another tokenisation of the same library."""
    config = EvaluateConfig(
        models={"bm25": "bm25"}, sets={"nl2bash": SetConfig(path=str(DATA))}, output_dir=str(tmp_path / "out")
    )
    (row,) = evaluate(config)
    assert row.num_queries == 1517
    assert row.scores["ndcg@10"] == pytest.approx(0.42, abs=0.02)
