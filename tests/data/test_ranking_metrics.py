"""The metrics are trec_eval's: compared with pytrec_eval on random graded judgements with ties."""

import random

import pytest
import torch

from qwen3emb_train.data.ranking_metrics import mrr_at, ndcg_at, recall_at
from qwen3emb_train.index.nearest import top_k_documents

pytrec_eval = pytest.importorskip("pytrec_eval")

CUTS = (1, 3, 10, 50)


@pytest.mark.parametrize("seed", range(8))
def test_all_metrics_equal_trec_eval_on_graded_data_with_tied_scores(seed: int) -> None:
    """Cosines on a coarse grid tie often. trec_eval puts the greater id first, so ids fall along the corpus."""
    randomness = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    num_queries, num_documents = 12, 40
    queries = torch.randint(-1, 2, (num_queries, 3), generator=generator).float()
    documents = torch.randint(-1, 2, (num_documents, 3), generator=generator).float()
    ids = [f"d{num_documents - row:04d}" for row in range(num_documents)]
    qrels = {
        f"q{query}": {i: randomness.choice([0, 0, 1, 2, 3]) for i in randomness.sample(ids, 12)} | {ids[query]: 1}
        for query in range(num_queries)
    }
    scores = queries @ documents.T
    run = {f"q{query}": dict(zip(ids, row.tolist(), strict=True)) for query, row in enumerate(scores)}
    measures = {f"{name}.{','.join(map(str, CUTS))}" for name in ("ndcg_cut", "recall")}
    expected = pytrec_eval.RelevanceEvaluator(qrels, measures | {"recip_rank"}).evaluate(run)

    _, rows = top_k_documents(queries, documents, num_documents)
    assert any(len(set(row.tolist())) < num_documents for row in scores)  # without ties this would prove less
    for query, ranking in enumerate(rows.tolist()):
        judged = qrels[f"q{query}"]
        ranked = [judged.get(ids[row], 0) for row in ranking]
        wanted = expected[f"q{query}"]
        for k in CUTS:
            assert ndcg_at(k, ranked, judged.values()) == pytest.approx(wanted[f"ndcg_cut_{k}"], abs=1e-9)
            assert recall_at(k, ranked, judged.values()) == pytest.approx(wanted[f"recall_{k}"], abs=1e-9)
            reciprocal = wanted["recip_rank"] if wanted["recip_rank"] * k >= 1.0 - 1e-9 else 0.0
            assert mrr_at(k, ranked) == pytest.approx(reciprocal, abs=1e-9)


def test_the_gain_is_linear_in_the_grade() -> None:
    """2^grade - 1, which some tools use, would give 0.6443 here."""
    assert ndcg_at(10, [1, 3], [1, 3]) == pytest.approx((1 + 3 / 1.5849625) / (3 + 1 / 1.5849625))


def test_a_ranking_without_relevant_documents_scores_zero() -> None:
    assert ndcg_at(10, [0, 0], [1]) == recall_at(10, [0, 0], [1]) == mrr_at(10, [0, 0]) == 0.0


def test_hundreds_of_random_runs_score_as_trec_eval_scores_them() -> None:
    """Short rankings, long ones, documents nobody judged, queries whose judgements are all zero or all relevant."""
    randomness = random.Random(5)
    qrels: dict[str, dict[str, int]] = {}
    rankings: dict[str, list[str]] = {}
    for number in range(400):
        ids = [f"d{row}" for row in range(randomness.randint(1, 120))]
        grades = randomness.choice([[0, 1], [0, 0, 0, 1], [0, 1, 2, 3], [1, 2], [0]])
        some = randomness.sample(ids, randomness.randint(1, len(ids)))
        qrels[f"q{number}"] = {document: randomness.choice(grades) for document in some}
        rankings[f"q{number}"] = randomness.sample(ids, randomness.randint(1, len(ids)))
    run = {
        query: {document: float(-place) for place, document in enumerate(found)} for query, found in rankings.items()
    }
    cuts = (1, 2, 5, 10, 100)
    measures = {f"{name}.{','.join(map(str, cuts))}" for name in ("ndcg_cut", "recall")}
    expected = pytrec_eval.RelevanceEvaluator(qrels, measures | {"recip_rank"}).evaluate(run)
    num_short = sum(len(found) < 10 for found in rankings.values())
    assert min(num_short, 400 - num_short) > 10  # else this would prove less
    for query, found in rankings.items():
        judged, wanted = qrels[query], expected[query]
        ranked = [judged.get(document, 0) for document in found]
        for k in cuts:
            assert ndcg_at(k, ranked, judged.values()) == pytest.approx(wanted[f"ndcg_cut_{k}"], abs=1e-9)
            assert recall_at(k, ranked, judged.values()) == pytest.approx(wanted[f"recall_{k}"], abs=1e-9)
        assert mrr_at(len(found), ranked) == pytest.approx(wanted["recip_rank"], abs=1e-9)
