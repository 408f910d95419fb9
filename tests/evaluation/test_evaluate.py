"""The table is what an independent computation from the vectors gives; exports and model directories agree."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION
from qwen3emb_train.data.ranking_metrics import ndcg_at
from qwen3emb_train.data.retrieval_set import load_retrieval_set
from qwen3emb_train.evaluation import evaluate as module
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, ResultRow, SetConfig, evaluate, format_table
from qwen3emb_train.index.bm25 import rank_with_bm25
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.precision import Precision
from tests.evaluation.tiny_set import write_tiny_set
from tests.tiny import make_tiny_model_directory

QUERIES = ["number of items", "a sleeping cat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def sentence_transformer(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by hand, since this room knows nothing of export: a query prompt, and a tokenizer that closes each text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("models") / "base"
    TextEncoder.load(str(model)).tokenizer.save(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((model / name).read_bytes())
    parts = [Transformer(str(folder)), Pooling(32, pooling_mode="lasttoken")]
    prompts = {"query": f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:", "document": ""}
    target = folder.with_name("st")
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save_pretrained(str(target))
    return target


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return write_tiny_set(tmp_path / "set")


def _config(beir: Path, models: dict[str, Path | str], **settings: Any) -> EvaluateConfig:
    return EvaluateConfig(
        models={name: str(path) for name, path in models.items()},
        sets={"tiny": SetConfig(path=str(beir))},
        output_dir=str(beir.parent / "out"),
        precision=Precision.fp32,
        **settings,
    )


@pytest.mark.parametrize("instruction", [None, "", "Find the sentence"])
def test_both_kinds_of_directory_give_the_same_vectors(
    model: Path, sentence_transformer: Path, instruction: str | None
) -> None:
    settings = EmbeddingSettings(precision=Precision.fp32)
    ours, theirs = (load_embedder(str(path), settings) for path in (model, sentence_transformer))
    torch.testing.assert_close(
        ours.encode_queries(QUERIES, instruction), theirs.encode_queries(QUERIES, instruction), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(ours.encode_documents(QUERIES), theirs.encode_documents(QUERIES), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("instruction", [None, "", "Find the sentence"])
def test_queries_carry_the_instruction_and_documents_none(model: Path, instruction: str | None) -> None:
    embedder = load_embedder(str(model), EmbeddingSettings(precision=Precision.fp32))
    task = DEFAULT_INSTRUCTION if instruction is None else instruction
    prompted = [f"Instruct: {task}\nQuery:{query}" if task else query for query in QUERIES]
    assert torch.equal(embedder.encode_queries(QUERIES, instruction), embedder.encode_documents(prompted))


def test_a_sentence_transformer_without_a_query_prompt_gets_no_instruction(
    sentence_transformer: Path, tmp_path: Path
) -> None:
    import shutil

    bare = Path(shutil.copytree(sentence_transformer, tmp_path / "bare"))
    settings = json.loads((bare / "config_sentence_transformers.json").read_text())
    (bare / "config_sentence_transformers.json").write_text(json.dumps(settings | {"prompts": {}}))
    embedder = load_embedder(str(bare), EmbeddingSettings(precision=Precision.fp32))
    assert torch.equal(embedder.encode_queries(QUERIES, "Find"), embedder.encode_documents(QUERIES))


def test_the_limit_of_tokens_is_the_lower_of_the_two(sentence_transformer: Path) -> None:
    short = load_embedder(str(sentence_transformer), EmbeddingSettings(max_tokens=4, precision=Precision.fp32))
    assert torch.equal(short.encode_documents(["a b c d e f"]), short.encode_documents(["a b c d e g"]))


def test_scores_equal_a_direct_computation_at_every_dimension(model: Path, tmp_path: Path) -> None:
    """Forty documents of random words: at 4 of 32 components the vectors' lengths differ, so the norm matters."""
    beir = _write_random_set(tmp_path / "set")
    rows = evaluate(_config(beir, {"ours": model}, dims=[4, 32]))
    data = load_retrieval_set(beir)
    embedder = load_embedder(str(model), EmbeddingSettings(precision=Precision.fp32))
    queries, documents = embedder.encode_queries(data.queries, None), embedder.encode_documents(data.documents)
    for row, dim in zip(rows, (4, 32), strict=True):
        cosines = torch.nn.functional.cosine_similarity(queries[:, None, :dim], documents[None, :, :dim], dim=-1)
        total = 0.0
        for query_id, order in zip(data.query_ids, cosines.argsort(descending=True).tolist(), strict=True):
            judged = data.relevance[query_id]
            total += ndcg_at(10, [judged.get(data.document_ids[i], 0) for i in order], judged.values())
        assert row.dim == dim
        assert row.scores["ndcg@10"] == pytest.approx(total / len(data.queries))
        assert (row.num_queries, row.num_documents) == (10, 40)


def test_queries_that_are_documents_are_left_out_of_their_own_rankings(model: Path, tmp_path: Path) -> None:
    """ArguAna, Quora and CQADupStack are such sets; BEIR's rule and mteb's."""
    beir = _write_random_set(tmp_path / "set")
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write("\n" + (beir / "queries.jsonl").read_text())
    rows = evaluate(_config(beir, {"ours": model, "bm25": "bm25"}, recall_at=[10], save_runs=True))
    data = load_retrieval_set(beir)
    embedder = load_embedder(str(model), EmbeddingSettings(precision=Precision.fp32))
    cosines = embedder.encode_queries(data.queries, None) @ embedder.encode_documents(data.documents).T
    own = torch.tensor([[i == q for i in data.document_ids] for q in data.query_ids])
    assert int(own.sum()) == 10
    total = 0.0
    for query_id, order in zip(data.query_ids, cosines.masked_fill(own, -2).argsort(descending=True), strict=True):
        judged = data.relevance[query_id]
        total += ndcg_at(10, [judged.get(data.document_ids[i], 0) for i in order.tolist()], judged.values())
    assert rows[0].scores["ndcg@10"] == pytest.approx(total / 10)
    for run in (beir.parent / "out" / "runs").iterdir():
        found = [line.split() for line in run.read_text().splitlines()]
        assert len(found) == 100
        assert all(query_id != document_id for query_id, _, document_id, *_ in found), run


def _write_random_set(path: Path) -> Path:
    randomness = random.Random(0)
    words = [f"{a}{b}" for a in "bdfgk" for b in ("ar", "el", "in", "os")]
    texts = [" ".join(randomness.choices(words, k=6)) for _ in range(50)]
    path.mkdir()
    documents = [json.dumps({"_id": f"d{i}", "text": text}) for i, text in enumerate(texts[:40])]
    queries = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(texts[40:])]
    judgements = [f"q{i}\td{j}\t{randomness.randint(1, 3)}" for i in range(10) for j in randomness.sample(range(40), 5)]
    (path / "corpus.jsonl").write_text("\n".join(documents))
    (path / "queries.jsonl").write_text("\n".join(queries))
    (path / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]))
    return path


def test_a_corpus_is_encoded_once_for_all_dimensions(model: Path, beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = TextEncoder.encode

    def counted(self: TextEncoder, texts: list[str], **settings: Any) -> torch.Tensor:
        calls.append(len(texts))
        return original(self, texts, **settings)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    assert len(evaluate(_config(beir, {"ours": model}, dims=[4, 8, 16, 32]))) == 4
    assert calls == [2, 3]  # the queries, the documents


def test_results_are_written_with_their_inputs_and_read_back(
    model: Path, beir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = evaluate(_config(beir, {"ours": model, "words": "bm25"}))
    assert [ResultRow.from_json(row) for row in json.loads((beir.parent / "out" / "results.json").read_text())] == rows
    record = lineage.read_record(beir.parent / "out")
    assert record is not None
    assert set(record.inputs) == {
        "model ours",
        "set tiny: corpus.jsonl",
        "set tiny: queries.jsonl",
        "set tiny: test.tsv",
    }
    monkeypatch.setattr(module, "load_embedder", None)  # a second run must not need a model
    assert evaluate(_config(beir, {"ours": model, "words": "bm25"})) == rows


def test_bm25_finds_shared_words_and_keeps_document_order_without_any() -> None:
    documents = ["the cat sat", "a dog ran", "a cat and a cat", "unrelated"]
    rankings = rank_with_bm25(["cat", "zebra", "", "the"], documents, 3).tolist()
    assert set(rankings[0][:2]) == {0, 2}
    assert rankings[1] == rankings[2] == rankings[3] == [0, 1, 2]


def test_bm25_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"pip install 'qwen3emb-train\[eval\]'"):
        rank_with_bm25(["a"], ["b"], 1)


def test_the_table_is_aligned_and_has_a_markdown_form() -> None:
    rows = [
        ResultRow("qwen3", "nl2bash", 64, {"ndcg@10": 0.5, "mrr@10": 0.25}, 12, 30, "ndcg@10"),
        ResultRow("bm25", "tldr", None, {"ndcg@10": 0.125, "mrr@10": 1.0}, 1000, 30, "ndcg@10"),
    ]
    assert format_table(rows).splitlines() == [
        "model  set      dim  queries  ndcg@10  mrr@10",
        "qwen3  nl2bash   64       12   0.5000  0.2500",
        "bm25   tldr       -     1000   0.1250  1.0000",
    ]
    assert format_table(rows, markdown=True).splitlines()[:3] == [
        "| model | set     | dim | queries | ndcg@10 | mrr@10 |",
        "| ----- | ------- | --: | ------: | ------: | -----: |",
        "| qwen3 | nl2bash |  64 |      12 |  0.5000 | 0.2500 |",
    ]


def test_a_missing_model_is_named_before_anything_runs(beir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"models.ours is .*nothing: no such directory"):
        evaluate(_config(beir, {"ours": beir.parent / "nothing"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": {}}, "models is empty"),
        ({"sets": {}}, "sets is empty"),
        ({"dims": [0]}, r"dims is \[0\]"),
        ({"recall_at": [10, 0]}, r"recall_at is \[10, 0\]"),
    ],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**{"models": {"a": "bm25"}, "sets": {"s": SetConfig(path="p")}, **settings})
