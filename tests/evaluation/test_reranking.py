"""Two stages: the first stage's best, in the order of the reranker's scores, and whatever comes after as it was."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.ranking_metrics import mrr_at, ndcg_at, recall_at
from qwen3emb_train.evaluation import evaluate as evaluate_module
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, ResultRow, SetConfig, evaluate, format_table
from qwen3emb_train.evaluation.reranking import PairScores, rerank, score_candidates
from qwen3emb_train.evaluation.search import Hit, SearchConfig, format_hits, search
from qwen3emb_train.index.bm25 import rank_with_bm25
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.models.precision import Precision
from tests.index.reranker_reference import PlainReranker
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

TASK = "Find what holds the same words"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model", num_layers=1)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "reranker")


@pytest.fixture(scope="module")
def plain(reranker: Path) -> PlainReranker:
    return PlainReranker(reranker, 1024)


def _documents() -> list[tuple[str, str]]:
    """Ids and texts. Four are alike, some share no word with any query: ties at every stage."""
    randomness = random.Random(0)
    texts = [" ".join(randomness.choices(["cat", "dog", "fox", "list", "tree"], k=3)) for _ in range(8)]
    texts += ["cat tree", "cat tree", "cat tree", "cat tree", "zebra", "yak", "gnu"]
    return [(f"d{(7 * number) % len(texts):02}", text) for number, text in enumerate(texts)]


def _write_set(path: Path, documents: list[tuple[str, str]]) -> Path:
    path.mkdir(parents=True)
    queries = {"q1": "cat tree", "q2": "a quick fox", "q3": "list of dogs"}
    judged = [
        ("q1", "d00", 2),
        ("q1", "d06", 1),
        ("q2", "d07", 1),
        ("q2", "d14", 2),
        ("q3", "d03", 1),
        ("q3", "d11", 3),
    ]
    lines = [json.dumps({"_id": document_id, "text": text}) for document_id, text in documents]
    (path / "corpus.jsonl").write_text("\n".join(lines))
    (path / "queries.jsonl").write_text("\n".join(json.dumps({"_id": i, "text": text}) for i, text in queries.items()))
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, one)) for one in judged)]
    (path / "qrels.tsv").write_text("\n".join(rows) + "\n")
    return path


def _config(directory: Path, model: Path, reranker: Path, **settings: Any) -> EvaluateConfig:
    given: dict[str, Any] = {
        "models": {"words": "bm25", "ours": str(model)},
        "rerankers": {"judge": str(reranker)},
        "sets": {"tiny": SetConfig(path=str(directory / "set"), instruction=TASK)},
        "output_dir": str(directory / "out"),
        "precision": Precision.fp32,
        "rerank_top_k": 6,
        "recall_at": [3, 10],
        "ndcg_at": 3,
    }
    return EvaluateConfig(**(given | settings))


def test_a_row_is_what_sorting_the_plain_scores_by_hand_gives(
    model: Path, reranker: Path, plain: PlainReranker, tmp_path: Path
) -> None:
    """The instruction is the set's, the order of the rest the first stage's."""
    data = dict(sorted(_documents()))
    _write_set(tmp_path / "set", _documents())
    rows = evaluate(
        _config(tmp_path, model, reranker, dims=[8, 32], rerankers={"a": str(reranker), "b": str(reranker)})
    )
    first = ["words", "ours", "ours"]
    assert [row.model for row in rows] == [*first, *(f"{one} > {name}" for name in "ab" for one in first)]
    assert [row.dim for row in rows] == [None, 8, 32] * 3
    ids, texts = list(data), list(data.values())
    queries = {"q1": "cat tree", "q2": "a quick fox", "q3": "list of dogs"}
    relevance = {"q1": {"d00": 2, "d06": 1}, "q2": {"d07": 1, "d14": 2}, "q3": {"d03": 1, "d11": 3}}
    embedder = load_embedder(str(model), EmbeddingSettings(precision=Precision.fp32))
    cosines = (
        torch.nn.functional.normalize(embedder.encode_queries(list(queries.values()), TASK)[:, :8])
        @ torch.nn.functional.normalize(embedder.encode_documents(texts)[:, :8]).T
    )
    by_cosine = cosines.double().mul(1e6).round().argsort(descending=True, stable=True).tolist()
    by_words = rank_with_bm25(list(queries.values()), texts, 15).tolist()
    for row, rankings in ((rows[3], by_words), (rows[4], by_cosine)):
        expected: dict[str, float] = dict.fromkeys(("ndcg@3", "recall@3", "recall@10", "mrr@10"), 0.0)
        for (query_id, query), ranking in zip(queries.items(), rankings, strict=True):
            scores = [round(score, 4) for score in plain.score(query, [texts[i] for i in ranking[:6]], TASK)]
            order = [ranking[place] for place in sorted(range(6), key=lambda place: -scores[place])] + ranking[6:]
            judged = relevance[query_id]
            ranked = [judged.get(ids[i], 0) for i in order]
            expected["ndcg@3"] += ndcg_at(3, ranked, judged.values()) / 3
            expected["recall@3"] += recall_at(3, ranked, judged.values()) / 3
            expected["recall@10"] += recall_at(10, ranked, judged.values()) / 3
            expected["mrr@10"] += mrr_at(10, ranked) / 3
        assert row.scores == pytest.approx(expected)
    assert rows[3].scores != rows[0].scores
    assert rows[6].scores == rows[3].scores
    assert rows[3].scores["recall@10"] == rows[0].scores["recall@10"], "reranking six keeps the ten"


def test_a_row_does_not_depend_on_the_order_of_the_documents(model: Path, reranker: Path, tmp_path: Path) -> None:
    """Alike documents and such without a common word tie in both stages, and at the edge of the six."""
    found = []
    for number in range(3):
        documents = random.Random(number).sample(_documents(), 15)
        _write_set(tmp_path / str(number) / "set", documents)
        rows = evaluate(_config(tmp_path / str(number), model, reranker))
        found.append([(row.model, row.scores) for row in rows])
    assert found[0] == found[1] == found[2]


def test_reranking_goes_deeper_than_the_cut_offs_where_asked_to(model: Path, reranker: Path, tmp_path: Path) -> None:
    """With all documents reranked, the first stage does not matter."""
    _write_set(tmp_path / "set", _documents())
    rows = evaluate(_config(tmp_path, model, reranker, rerank_top_k=15, ndcg_at=3, recall_at=[3], mrr_at=3))
    assert rows[2].scores == rows[3].scores
    assert rows[0].scores != rows[1].scores
    assert rows[2].scores["recall@3"] > 0


def test_the_time_is_kept_and_printed_and_a_pair_scored_once(
    model: Path, reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    original = TextReranker.score_groups

    def slow(self: TextReranker, queries: list[str], documents: list[list[str]], *args: Any, **settings: Any) -> Any:
        counts.append(sum(map(len, documents)))
        assert all(len(set(map(id, its))) == len(its) for its in documents)
        time.sleep(0.5)
        return original(self, queries, documents, *args, **settings)

    monkeypatch.setattr(TextReranker, "score_groups", slow)
    _write_set(tmp_path / "set", _documents())
    config = _config(tmp_path, model, reranker)
    rows = evaluate(config)
    assert len(counts) == 1
    assert 18 < counts[0] < 2 * 18  # 3 queries, 6 documents of each first stage, some of them the same
    speeds = [row.pairs_per_second for row in rows]
    assert speeds[:2] == [None, None]
    assert speeds[2] == speeds[3]
    assert speeds[2] is not None
    assert 0 < speeds[2] < counts[0] / 0.5
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert [ResultRow.from_json(row) for row in stored] == rows
    record = lineage.read_record(tmp_path / "out")
    assert record is not None
    assert record.inputs["reranker judge"] == lineage.digest(reranker)
    monkeypatch.setattr(evaluate_module, "load_embedder", None)
    assert evaluate(config) == rows, "up to date"


def test_the_table_has_a_column_for_the_speed_where_there_is_one() -> None:
    rows = [
        ResultRow("bm25", "tldr", None, {"ndcg@10": 0.125}, 10, 30, "ndcg@10"),
        ResultRow("bm25 > mine", "tldr", None, {"ndcg@10": 0.25}, 10, 30, "ndcg@10", pairs_per_second=1234.56),
    ]
    assert format_table(rows).splitlines() == [
        "model        set   dim  queries  ndcg@10  pairs/s",
        "bm25         tldr    -       10   0.1250        -",
        "bm25 > mine  tldr    -       10   0.2500  1,234.6",
    ]


def test_only_the_first_layers_of_a_reranker(model: Path, reranker: Path, tmp_path: Path) -> None:
    _write_set(tmp_path / "set", _documents())
    rerankers = {"whole": str(reranker), "cut": str(reranker)}
    rows = evaluate(
        _config(tmp_path, model, reranker, models={"w": "bm25"}, rerankers=rerankers, num_layers={"cut": 1})
    )
    assert rows[1].scores != rows[2].scores


def test_equal_scores_keep_the_first_stages_order() -> None:
    ranking = torch.tensor([[4, 2, 0, 3, 1], [0, 1, 2, 3, 4]])
    scores = PairScores([{4: 1.0, 2: 2.0, 0: 1.0, 3: 9.0}, {0: -1.0, 1: -1.0, 2: -2.0}], 1.0)
    assert rerank(ranking, scores, 3).tolist() == [[2, 4, 0, 3, 1], [0, 1, 2, 3, 4]]


def test_scores_that_are_not_finite_are_refused(reranker: Path) -> None:
    broken = TextReranker.load(str(reranker), precision="fp32")
    broken.reranker.backbone.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        score_candidates(broken, ["q"], ["a", "b"], [torch.tensor([[1, 0]])], 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rerankers": {"judge": "nowhere"}}, FileNotFoundError, "rerankers.judge is nowhere: no such directory"),
        ({"rerankers": {"judge": "MODEL"}}, ValueError, "model: not a yes/no reranker"),
        ({"rerankers": {"ours": "x"}}, ValueError, r"models and rerankers both have \['ours'\]"),
        ({"rerank_top_k": 0}, ValueError, "rerank_top_k is 0"),
    ],
)
def test_bad_rerankers_are_refused_before_anything_is_encoded(
    model: Path,
    reranker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    error: Any,
    message: str,
) -> None:
    monkeypatch.setattr(evaluate_module, "load_embedder", None)
    _write_set(tmp_path / "set", _documents())
    if settings.get("rerankers") == {"judge": "MODEL"}:
        settings = {"rerankers": {"judge": str(model)}}
    with pytest.raises(error, match=message):
        evaluate(_config(tmp_path, model, reranker, **settings))


def _search(directory: Path, model: Path, reranker: Path | None, **settings: Any) -> list[Hit]:
    return search(
        SearchConfig(
            model=str(model), corpus=str(directory / "set/corpus.jsonl"), query="fox", precision=Precision.fp32,
            reranker=None if reranker is None else str(reranker), **settings,
        )
    )  # fmt: skip


def test_a_search_in_two_stages_keeps_both_scores(
    model: Path, reranker: Path, plain: PlainReranker, tmp_path: Path
) -> None:
    _write_set(tmp_path / "set", _documents())
    one = _search(tmp_path, model, None, top_k=15, instruction=TASK)
    two = _search(tmp_path, model, reranker, top_k=8, rerank_top_k=5, instruction=TASK)
    scores = dict(zip([hit.id for hit in one[:5]], plain.score("fox", [h.text for h in one[:5]], TASK), strict=True))
    assert [hit.rank for hit in two] == [*range(1, 9)]
    assert [hit.id for hit in two[5:]] == [hit.id for hit in one[5:8]]
    assert [hit.rerank_score for hit in two[5:]] == [None] * 3
    assert {hit.id for hit in two[:5]} == scores.keys()
    found = [hit.rerank_score for hit in two[:5] if hit.rerank_score is not None]
    assert found == sorted(found, reverse=True)
    for hit in two:
        (same,) = (other for other in one if other.id == hit.id)
        assert (hit.score, hit.found_at, hit.text) == (same.score, same.rank, same.text)
        if hit.rerank_score is not None:
            assert hit.rerank_score == pytest.approx(scores[hit.id], abs=2e-5)
    # The best five by cosine are read, although one is shown.
    assert two[0].id != one[0].id
    assert _search(tmp_path, model, reranker, top_k=1, rerank_top_k=5, instruction=TASK) == two[:1]
    assert all(hit.rerank_score is None and hit.found_at is None for hit in one)


def test_a_search_refuses_a_wrong_reranker_before_it_encodes(model: Path, tmp_path: Path) -> None:
    _write_set(tmp_path / "set", _documents())
    with pytest.raises(ValueError, match="model: not a yes/no reranker"):
        _search(tmp_path, model, model)
    with pytest.raises(ValueError, match="rerank_top_k is 0"):
        _search(tmp_path, model, model, rerank_top_k=0)


def test_both_scores_are_printed_under_a_heading() -> None:
    hits = [
        Hit(1, 0.5, "d2", "two\nlines", 3.25, 2),
        Hit(2, 0.75, "d1", "x" * 30, -12.5, 1),
        Hit(3, 0.25, "d3", "y", None, 3),
    ]
    assert format_hits(hits, width=10).splitlines() == [
        "rank  reranker  cosine  by cosine  id  text",
        "   1   +3.2500  0.5000          2  d2  two lines",
        "   2  -12.5000  0.7500          1  d1  xxxxxxx...",
        "   3         -  0.2500          3  d3  y",
    ]
