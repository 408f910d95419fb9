"""On a real public set beside the project: rows copied from its test split are found among its training rows."""

import json
import os
from pathlib import Path

import pytest

from qwen3emb_train.curation.cleaning.config import (
    DecontaminationConfig,
    EvaluationSetConfig,
    HeldOutDocuments,
    OverlapRule,
)
from qwen3emb_train.data.readers import read_examples
from tests.curation.cleaning.rows import cleaned, reasons, row

DATA = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "nl2bash"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the public data set nl2bash is not at {DATA} (set QWEN3EMB_DATA)"),
]


def test_planted_test_queries_are_found_in_a_real_set(tmp_path: Path) -> None:
    """Its own splits are by question and command, so equal texts are only those that were planted."""
    judged = {line.split("\t")[0] for line in (DATA / "qrels" / "test.tsv").read_text().splitlines()[1:]}
    queries = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().splitlines()]
    planted = [query["text"].upper() for query in queries if query["_id"] in judged][:40]
    rows = [example.to_json() for example in read_examples(DATA / "train.jsonl")][:400]
    rows += [row(text, "true # nothing") for text in planted]
    held_out = EvaluationSetConfig(path=str(DATA), documents=HeldOutDocuments.relevant)
    output = cleaned(
        tmp_path,
        rows,
        evaluation_sets={"nl2bash": held_out},
        decontamination=DecontaminationConfig(rules=[OverlapRule.equal]),
    )
    found = {line for line, reason in reasons(output).items() if reason == "contaminated"}
    assert found == set(range(401, 441))
