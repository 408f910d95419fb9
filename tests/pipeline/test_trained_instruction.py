"""The instruction of training travels with the model: every program puts before a query what training put there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, query_prompt
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.ranking_metrics import ndcg_at
from qwen3emb_train.data.retrieval_set import RetrievalSet, load_retrieval_set
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, SetConfig, evaluate
from qwen3emb_train.evaluation.search import SearchConfig, search
from qwen3emb_train.export.sentence_transformers import ExportConfig, ExportDtype, export_model
from qwen3emb_train.merging.config import MergeConfig
from qwen3emb_train.merging.merge import merge_models
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.retrieval_validation import ValidationSetConfig
from qwen3emb_train.training.train_embedding import train_embedding
from qwen3emb_train.training.validation import BestBy, ValidationConfig
from tests.training.setup import make_config, write_rows
from tests.training.test_retrieval_validation import write_set

sentence_transformers = pytest.importorskip("sentence_transformers", reason="Sentence-Transformers is not installed")

OWN = "Given a topic, find the function"
BARE = Prompts({"query": "", "document": ""})


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "dev", 60, 12)


def _sources(kind: str, directory: Path) -> dict[str, SourceConfig]:
    many, few = write_rows(directory / "many.jsonl", 24), write_rows(directory / "few.jsonl", 12)
    return {
        "bare": {"pairs": SourceConfig(str(many))},
        "own": {"pairs": SourceConfig(str(many), instruction=OWN)},
        "two": {"few": SourceConfig(str(few)), "many": SourceConfig(str(many), instruction=OWN)},
    }[kind]


def _ndcg_of_sentence_transformers(folder: Path, data: RetrievalSet) -> float:
    """As a user of the export does it, ranked and scored here in plain tensors."""
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    queries = torch.tensor(model.encode(data.queries, prompt_name="query", normalize_embeddings=True)).double()
    documents = torch.tensor(model.encode(data.documents, normalize_embeddings=True)).double()
    found = (queries @ documents.T).argsort(dim=1, descending=True).tolist()
    total = 0.0
    for query, rows in zip(data.query_ids, found, strict=True):
        grades = data.relevance[query]
        total += ndcg_at(10, [grades.get(data.document_ids[row], 0) for row in rows[:10]], grades.values())
    return total / len(found)


@pytest.mark.parametrize("kind", ["bare", "own", "two"])
def test_evaluation_search_and_the_export_agree_with_the_validation_in_training(
    kind: str, tiny_qwen3: Path, dev: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(
        tiny_qwen3, tmp_path, tmp_path / "run", data=_sources(kind, tmp_path), steps=3, save_every=1,
        eval_sets={"dev": ValidationSetConfig(str(dev))}, validation=ValidationConfig(every=3, best_by=BestBy.ndcg),
        optimizer=OptimizerConfig(lr=1e-2),
    )  # fmt: skip
    model = train_embedding(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = next(line["validation/dev/ndcg@10"] for line in lines if "validation/dev/ndcg@10" in line)

    own = query_prompt(OWN)
    recorded = {"bare": {}, "own": {"query": own}, "two": {"query": own, "few": "", "many": own}}[kind]
    assert Prompts.read(model) == Prompts(dict(BARE.by_name) | recorded)
    assert Prompts.read(tmp_path / "run" / "checkpoints" / "step_000002" / "model") == Prompts.read(model)

    copy = Path(shutil.copytree(model, tmp_path / "moved"))  # the directory alone
    merged = merge_models(MergeConfig(models=[str(copy), str(model)], output_dir=str(tmp_path / "merged")))
    exported = export_model(ExportConfig(str(copy), str(tmp_path / "export"), ExportDtype.float32, max_tokens=128))
    models = {"moved": str(copy), "merged": str(merged), "exported": str(exported)}

    def ndcg(instruction: str | None, output: str) -> dict[str, float]:
        sets = {"dev": SetConfig(str(dev), instruction=instruction)}
        rows = evaluate(
            EvaluateConfig(
                models=models, sets=sets, output_dir=str(tmp_path / output), precision=Precision.fp32,
                bootstrap_samples=0, diagnostics=False,
            )
        )  # fmt: skip
        return {row.model: row.scores["ndcg@10"] for row in rows if row.set == "dev"}

    assert ndcg(None, "defaults") == pytest.approx(dict.fromkeys(models, expected), abs=1e-6)
    data = load_retrieval_set(dev, "test")
    assert _ndcg_of_sentence_transformers(exported, data) == pytest.approx(expected, abs=1e-6)
    assert "differs" not in caplog.text
    with_default = ndcg(DEFAULT_INSTRUCTION, "default")
    assert with_default["moved"] != pytest.approx(expected, abs=1e-3), "another instruction changes nothing: vacuous"
    assert "instruction differs from training: sets.dev.instruction is 'Given a web search query" in caplog.text

    hits = {
        path: search(SearchConfig(path, str(dev / "corpus.jsonl"), data.queries[0], precision=Precision.fp32))
        for path in models.values()
    }
    st = sentence_transformers.SentenceTransformer(str(exported), device="cpu")
    query = st.encode([data.queries[0]], prompt_name="query")
    cosines = st.similarity(query, st.encode(data.documents))[0]
    best = [data.document_ids[row] for row in cosines.argsort(descending=True)[:10].tolist()]
    for found in hits.values():
        assert [hit.id for hit in found] == best
        torch.testing.assert_close(
            torch.tensor([hit.score for hit in found]), cosines.sort(descending=True)[0][:10], atol=1e-5, rtol=0
        )


def test_a_model_that_says_nothing_gets_the_default_instruction_and_a_line(
    tiny_qwen3: Path, dev: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Prompts.read(tiny_qwen3) is None
    settings: dict[str, Any] = {"query": "sort a list", "precision": Precision.fp32}
    corpus = str(dev / "corpus.jsonl")
    unsaid = search(SearchConfig(str(tiny_qwen3), corpus, **settings))
    assert f"does not say what it was trained with: queries carry the default instruction '{DEFAULT_INSTRUCTION}'" in (
        caplog.text
    )
    said = search(SearchConfig(str(tiny_qwen3), corpus, instruction=DEFAULT_INSTRUCTION, **settings))
    assert unsaid == said != search(SearchConfig(str(tiny_qwen3), corpus, instruction="", **settings))
