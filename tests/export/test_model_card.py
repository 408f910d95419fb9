"""The card: valid YAML and Markdown whatever the texts in it hold, and what run.json and results.json record."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from qwen3emb_train import lineage
from qwen3emb_train.export import card_tables
from qwen3emb_train.export.card_tables import cell, read_scores
from qwen3emb_train.export.model_card import embedding_card, reranker_card
from tests.export.folders import export
from tests.tiny import make_tiny_model_directory

HOSTILE = "---\nlicense: evil\n---\n{{ config }} <script>alert(1)</script> `x` ```\n| a | [b](javascript:c) ${d} \\"


def _record(**metrics: Any) -> lineage.RunRecord:
    """An export of a fine-tuned model, whose names and metrics are hostile."""
    data = {"program": "python_library", "config": {}, "inputs": {}, "parents": {}, "finished": "2026-01-01T00:00:00Z"}
    data |= {"metrics": {"counts": {"train": 5677}, "note": HOSTILE}}
    training = {
        "program": "train_embedding",
        "config": {
            "batch_size": 128, "optimizer": {"lr": 3e-4}, "matryoshka_dims": [32, 16], "output_dir": "/secret/place",
            "data": {HOSTILE: {"path": "/secret/place/x.jsonl", "weight": 2.0, "task": "retrieval"}},
        },
        "inputs": {f"data.{HOSTILE}": "a47eb4bc", "model": "956637ea"},
        "metrics": {"examples_seen": 7680},
        "parents": {f"data.{HOSTILE}": data},
        "finished": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    return lineage.RunRecord("export", {}, {}, metrics, {"model": training}, {}, "2026-01-03T00:00:00Z")


def _card(name: str = "mine", **settings: Any) -> str:
    given: dict[str, Any] = {"dim": 32, "max_tokens": 512, "dtype": "bfloat16", "prompts": {}}
    return embedding_card(name, _record(), **(given | {"base_model": None, "license": None} | settings))


SCORES = [
    {"model": model, "set": "py", "dim": dim, "scores": {"ndcg@10": score, "mrr@10": 0.5}, "num_queries": 811}
    for model, dim, score in (("full", 32, 0.61), ("full", 16, 0.55), ("bm25", None, 0.4))
]


def test_hostile_texts_are_text(tmp_path: Path) -> None:
    """G8: the front matter is what was given, and no row of a table ends early or runs."""
    scores = [row | {"model": HOSTILE, "set": HOSTILE} for row in SCORES]
    text = _card(
        HOSTILE, prompts={"query": HOSTILE, HOSTILE: HOSTILE}, scores=scores, license=HOSTILE, base_model=HOSTILE
    )
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == HOSTILE
    assert card.data.base_model == HOSTILE
    assert card.data.pipeline_tag == "feature-extraction"
    outside_code = re.sub(r"^```\w*\n.*?^```$", "", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside_code
    assert "{{ config" not in outside_code
    assert "```" not in outside_code, "every code block that we open is the one that we close"
    assert not re.search(r"^---", card.text, flags=re.MULTILINE)
    columns = {line.count("|") for line in outside_code.splitlines() if "alert(1)" in line and line.startswith("|")}
    assert columns <= {3, 4, 5, 6, 7}
    for example in re.findall(r"^```python\n(.*?)^```$", card.text, flags=re.DOTALL | re.MULTILINE):
        compile(example, "card", "exec")


def test_a_long_hostile_text_does_not_flood_the_card() -> None:
    assert len(cell("<" * 1_000_000)) < 10_000
    assert "\n" not in cell("a\nb\r\n---")


def test_what_was_recorded_is_told_and_paths_are_not() -> None:
    text = _card()
    assert "| train_embedding | 2026-01-02T00:00:00Z | examples_seen: 7680 |" in text
    assert "batch_size: 128, optimizer.lr: 0.0003" in text
    assert "counts.train: 5677 | a47eb4bc |" in text
    assert "Trained for the first 32, 16 dimensions." in text
    assert "/secret" not in text


def test_scores_and_matryoshka_tables() -> None:
    text = _card(scores=SCORES)
    assert "| full | py | 32 | 811 | 0.6100 | 0.5000 |" in text
    assert "| bm25 | py | - | 811 | 0.4000 | 0.5000 |" in text
    assert "| model (ndcg@10) | set | 32 | 16 |\n|---|---|---|---|\n| full | py | 0.6100 | 0.5500 |" in text
    assert "No evaluation is recorded" not in text
    assert "No evaluation is recorded" in _card()


def test_usage_for_every_runtime_and_the_prompts() -> None:
    text = _card(prompts={"query": "Instruct: t\nQuery:", "document": "", "code": "Instruct: c\nQuery:"})
    for wanted in (
        "SentenceTransformer('mine')",
        'prompt_name="query"',
        "AutoModel",
        "vllm serve",
        "text-embeddings-router",
    ):
        assert wanted in text
    assert "| code | Instruct: c&#92;nQuery: |" in text
    assert "Neither queries nor documents carry a prompt." in _card()


def test_a_rerankers_card_is_hostile_proof_too(tmp_path: Path) -> None:
    text = reranker_card(HOSTILE, _record(), instruction=HOSTILE, max_tokens=512, base_model=HOSTILE, license=None)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == HOSTILE
    outside_code = re.sub(r"^```\w*\n.*?^```$", "", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside_code
    assert '"classifier_from_token": ["no", "yes"]' in text


def test_the_code_on_a_card_with_a_quote_in_its_name_is_code() -> None:
    for example in re.findall(r"```python\n(.*?)```", _card('it\'s "mine"'), flags=re.DOTALL):
        compile(example, "card", "exec")


def test_scores_are_read_from_an_evaluation_and_are_part_of_what_is_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model_directory(tmp_path / "model", num_layers=1)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(SCORES))
    settings = {"scores": str(tmp_path / "evaluation"), "verify": False}
    folder = export(model, tmp_path / "out", **settings)
    assert "| full | py | 32 |" in (folder / "README.md").read_text(encoding="utf-8")
    export(model, tmp_path / "out", **settings)
    assert "up to date" in capsys.readouterr().out
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(SCORES[:1]))
    export(model, tmp_path / "out", **settings)
    assert "up to date" not in capsys.readouterr().out


def test_a_card_has_a_row_for_each_model_and_set_alone(tmp_path: Path) -> None:
    """An evaluation also holds means over sets and stored forms of the same vectors."""
    stored = [row | {"quantization": form} for row in SCORES for form in ("float32", "int8")]
    rows = [*stored, *(row | {"quantization": "float32", "set": "mean"} for row in SCORES)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert read_scores(tmp_path) == SCORES


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        read_scores(tmp_path / "none")
    (tmp_path / "results.json").write_text('[{"model": "a"}]')
    with pytest.raises(ValueError, match=r"not the results\.json of 'evaluate'"):
        read_scores(tmp_path)


def test_an_evaluation_is_no_ancestor_of_the_model() -> None:
    record = _record()
    record.parents["scores"] = {
        "program": "evaluate", "config": {}, "inputs": {}, "metrics": {}, "parents": {}, "finished": "x",
    }  # fmt: skip
    assert [run["program"] for run in card_tables.ancestry(record)] == ["export", "train_embedding", "python_library"]
