"""One run over sets of every task: what is encoded, written and read back."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3emb_train.data.retrieval_set import load_retrieval_set
from qwen3emb_train.evaluation import evaluate as module
from qwen3emb_train.evaluation.config import SetConfig, TaskKind
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, ResultRow, evaluate
from qwen3emb_train.evaluation.stored_vectors import StoredAs
from qwen3emb_train.evaluation.tasks import clustering
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.precision import Precision
from tests.tiny import make_tiny_model_directory

WORDS = [f"{a}{b}" for a in "bdfgk" for b in ("ar", "el", "in", "os")]
TASKS = ("sts", "pair_classification", "classification", "clustering", "bitext")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for each task."""
    randomness = random.Random(0)
    path = tmp_path_factory.mktemp("sets")

    def texts(count: int) -> list[str]:
        return [" ".join(randomness.choices(WORDS, k=6)) for _ in range(count)]

    for name in (*TASKS, "retrieval"):
        (path / name).mkdir()
    pairs = list(zip(texts(20), texts(20), strict=True))
    for name, column in (("sts", "\tscore"), ("pair_classification", "\tlabel"), ("bitext", "")):
        lines = [f"{one}\t{other}" + (f"\t{row % 2}" if column else "") for row, (one, other) in enumerate(pairs)]
        (path / name / "test.tsv").write_text("\n".join([f"sentence1\tsentence2{column}", *lines]))
    for name, split in (("classification", "train"), ("classification", "test"), ("clustering", "test")):
        labelled = [json.dumps({"text": text, "label": row % 3}) for row, text in enumerate(texts(12))]
        (path / name / f"{split}.jsonl").write_text("\n".join(labelled))
    documents = [json.dumps({"_id": f"d{row:02}", "text": text}) for row, text in enumerate(texts(40))]
    queries = [json.dumps({"_id": f"q{row}", "text": text}) for row, text in enumerate(texts(10))]
    judged = [
        f"q{row}\td{d:02}\t{randomness.randint(1, 3)}" for row in range(10) for d in randomness.sample(range(40), 4)
    ]
    (path / "retrieval" / "corpus.jsonl").write_text("\n".join(documents))
    (path / "retrieval" / "queries.jsonl").write_text("\n".join(queries))
    (path / "retrieval" / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return path


def _config(model: Path, data: Path, output: Path, *names: str, **settings: Any) -> EvaluateConfig:
    sets = {name: SetConfig(path=str(data / name), task=TaskKind(name)) for name in names}
    settings = {"models": {"ours": str(model)}, "precision": Precision.fp32, "bootstrap_samples": 200} | settings
    return EvaluateConfig(sets=sets, output_dir=str(output), **settings)


@pytest.fixture(scope="module")
def everything(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ResultRow]]:
    """Every task at two dimensions, stored in three ways, with BM25 and another model beside it."""
    output = tmp_path_factory.mktemp("results") / "out"
    other = make_tiny_model_directory(output.parent / "other", seed=1)
    config = _config(
        model, data, output, *TASKS, "retrieval", dims=[8, 32], quantizations=list(StoredAs), baseline="other",
        models={"ours": str(model), "other": str(other), "words": "bm25"}, save_runs=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clustering, "_TEXTS", 50)  # of each of the 120 clusterings here
        rows = evaluate(config)
    return output, rows


def test_every_set_has_a_row_in_every_form_and_systems_with_all_sets_a_mean(
    everything: tuple[Path, list[ResultRow]],
) -> None:
    _, rows = everything
    keys = [(row.model, row.set, row.dim, row.quantization) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * (len(TASKS) + 2) * 6 + 1
    assert ("words", "retrieval", None, "float32") in keys
    assert all(row.interval and row.interval[0] <= row.scores[row.metric] + 1e-9 for row in rows)
    assert {row.metric for row in rows} == {
        "cosine_spearman", "max_ap", "accuracy", "v_measure", "f1", "ndcg@10", "mean"
    }  # fmt: skip
    assert all((row.against is None) == (row.model == "other") for row in rows)
    by_form = {row.quantization: row.scores for row in rows if (row.model, row.set, row.dim) == ("ours", "sts", 32)}
    assert by_form["int8"]["cosine_spearman"] == pytest.approx(by_form["float32"]["cosine_spearman"], abs=0.05)
    assert by_form["int8"] != by_form["float32"] != by_form["binary"]


def test_units_hold_the_values_whose_mean_is_the_score(everything: tuple[Path, list[ResultRow]]) -> None:
    output, rows = everything
    lines = [json.loads(line) for line in (output / "per_query.jsonl").read_text().splitlines()]
    single = [row for row in rows if row.set != "mean"]
    assert len(lines) == len(single)
    for line, row in zip(lines, single, strict=True):
        names = (line["model"], line["set"], line["dim"], line["quantization"], line["metric"])
        assert names == (row.model, row.set, row.dim, row.quantization, row.metric)
        assert len(set(line["ids"])) == len(line["values"]) == (10 if row.set == "clustering" else row.num_queries)
        assert np.mean(line["values"]) == pytest.approx(row.scores[row.metric], abs=1e-12)


def test_results_are_read_back_as_they_were(
    everything: tuple[Path, list[ResultRow]],
) -> None:
    output, rows = everything
    assert [ResultRow.from_json(row) for row in json.loads((output / "results.json").read_text())] == rows


def test_runs_score_in_trec_eval_as_the_rows_say(everything: tuple[Path, list[ResultRow]], data: Path) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    output, rows = everything
    relevance = load_retrieval_set(data / "retrieval").relevance
    for row in rows:
        if row.set != "retrieval":
            continue
        form = "" if row.dim is None else f"__{row.dim}__{row.quantization}"
        with (output / "runs" / f"{row.model}__retrieval{form}.trec").open() as file:
            run = pytrec_eval.parse_run(file)
        scores = pytrec_eval.RelevanceEvaluator(relevance, {"ndcg_cut.10"}).evaluate(run)
        assert np.mean([one["ndcg_cut_10"] for one in scores.values()]) == pytest.approx(
            row.scores["ndcg@10"], abs=1e-9
        )


@pytest.mark.parametrize("instruction", [None, "", "Find its twin"])
def test_symmetric_tasks_put_the_instruction_before_every_text_and_encode_each_once(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instruction: str | None
) -> None:
    seen: list[str] = []
    original = TextEncoder.encode

    def watched(self: TextEncoder, texts: list[str], **settings: Any) -> torch.Tensor:
        seen.extend(texts)
        return original(self, texts, **settings)

    monkeypatch.setattr(TextEncoder, "encode", watched)
    config = _config(model, data, tmp_path / "out", "sts", dims=[8, 32], quantizations=list(StoredAs))
    config.sets["sts"].instruction = instruction
    evaluate(config)
    task = "Retrieve semantically similar text." if instruction is None else instruction
    assert len(seen) == len(set(seen)) == 40
    assert all(text.startswith(f"Instruct: {task}\nQuery:") == bool(task) for text in seen)


def test_cached_vectors_give_the_same_rows_without_a_model(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    plain = evaluate(_config(model, data, tmp_path / "plain", "sts", "retrieval", dims=[8]))
    assert evaluate(_config(model, data, tmp_path / "first", "sts", "retrieval", dims=[8], cache_dir=cache)) == plain
    assert len(list((tmp_path / "cache").iterdir())) == 3  # pairs, queries, documents
    monkeypatch.setattr(module, "load_embedder", None)
    assert evaluate(_config(model, data, tmp_path / "again", "sts", "retrieval", dims=[8], cache_dir=cache)) == plain
    other = _config(model, data, tmp_path / "other", "sts", dims=[8], cache_dir=cache)
    other.sets["sts"].instruction = "Another"
    with pytest.raises(TypeError):  # other texts need the model, which is not there
        evaluate(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizations": []}, "quantizations is empty"),
        ({"quantizations": [StoredAs.int8] * 2}, "give each once"),
        ({"sets": {"mean": SetConfig(path="p")}}, "the row over all sets"),
        ({"baseline": "b"}, r"baseline is 'b', none of the models \['a'\]"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"bootstrap_samples": -1}, "bootstrap_samples is -1"),
        ({"num_processes": 0}, "num_processes is 0"),
        ({"sets": {"s": SetConfig(path="p", task=TaskKind.sts)}}, r"\['a'\] can only rank documents"),
    ],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**{"models": {"a": "bm25"}, "sets": {"s": SetConfig(path="p")}, **settings})
