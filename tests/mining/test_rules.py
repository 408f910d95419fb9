"""The rules of mining, each alone and together."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3emb_train.mining.config import MiningConfig, Sampling, WrittenScores
from qwen3emb_train.mining.rules import Candidate, draw_negatives, eligible, score_limit, window

_NO_LIMITS: dict[str, Any] = {"max_relative_score": None, "sampling": Sampling.top}
_SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
_DOCUMENTS = [10, 11, 12, 13, 14, 15]


def _eligible(
    scores: dict[int, float],
    config: MiningConfig,
    positive_score: float = 1.0,
    relevant: tuple[int, ...] = (),
    source: str = "model",
) -> list[Candidate]:
    return eligible(scores, scores, relevant, score_limit(positive_score, config), config, source)


def _chosen(positive_score: float = 0.8, relevant: tuple[int, ...] = (), seed: str = "", **rules: Any) -> list[int]:
    """Positions in the list of documents."""
    config = MiningConfig(**(_NO_LIMITS | {"num_negatives": 2} | rules))
    found = _eligible(dict(zip(_DOCUMENTS, _SCORES, strict=True)), config, positive_score, relevant)
    return [candidate.row - 10 for candidate in draw_negatives(found, [], config, config.num_negatives, seed)]


def _drawn(by_model: dict[int, float], by_bm25: dict[int, float], num_wanted: int, **rules: Any) -> list[Candidate]:
    config = MiningConfig(**(_NO_LIMITS | {"num_negatives": 6} | rules))
    found = [_eligible(scores, config, source=name) for name, scores in (("model", by_model), ("bm25", by_bm25))]
    return draw_negatives(found[0], found[1], config, num_wanted, "seed")


def test_top_takes_the_hardest() -> None:
    assert _chosen() == [0, 1]


def test_relevant_documents_are_taken_out_before_ranks_are_counted() -> None:
    assert _chosen(relevant=(10, 12)) == [1, 3]
    assert _chosen(relevant=(10,), rank_from=2) == [2, 3]


def test_the_window_of_ranks_includes_both_ends() -> None:
    assert _chosen(rank_from=3, rank_to=4) == [2, 3]
    assert _chosen(rank_from=6, rank_to=9) == [5]


def test_the_relative_limit_is_a_share_of_the_positive_and_strict() -> None:
    assert _chosen(positive_score=0.8, max_relative_score=0.95) == [2, 3]  # 0.8 is not below 0.76
    assert _chosen(positive_score=0.7, max_relative_score=1.0) == [3, 4]  # 0.7 is not below 0.7


def test_the_relative_limit_lies_below_a_negative_score_too() -> None:
    config = MiningConfig(max_relative_score=0.9)
    assert score_limit(-0.5, config) == pytest.approx(-0.55)


def test_the_absolute_margin_and_its_other_sign() -> None:
    assert _chosen(positive_score=0.8, absolute_margin=0.15) == [3, 4]
    assert _chosen(positive_score=0.8, absolute_margin=-0.05) == [1, 2]


def test_the_maximal_score() -> None:
    assert _chosen(max_score=0.55) == [4, 5]


def test_the_strictest_limit_decides() -> None:
    config = MiningConfig(max_relative_score=0.9, absolute_margin=0.2, max_score=0.7)
    assert score_limit(0.8, config) == pytest.approx(0.6)
    assert score_limit(0.95, config) == pytest.approx(0.7)


def test_limits_that_leave_too_few_give_fewer() -> None:
    assert _chosen(max_score=0.45, num_negatives=4) == [5]
    assert _chosen(max_score=0.1) == []


def test_random_draws_come_from_the_window_and_depend_on_the_seed_only() -> None:
    draws = {tuple(_chosen(sampling=Sampling.random, rank_from=2, rank_to=6, seed=str(i))) for i in range(60)}
    assert len(draws) == 10  # all pairs of five
    assert all(0 < first < second for first, second in draws)
    assert len({tuple(_chosen(sampling=Sampling.random, seed="one")) for _ in range(5)}) == 1


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.sets(st.integers(0, 29)),
    st.floats(-1, 1),
    st.integers(1, 5),
    st.integers(1, 10),
    st.sampled_from(Sampling),
)
def test_whatever_is_chosen_obeys_every_rule(
    scores: list[float], relevant: set[int], positive: float, num: int, rank_from: int, sampling: Sampling
) -> None:
    scores = sorted(scores, reverse=True)
    config = MiningConfig(num_negatives=num, rank_from=rank_from, rank_to=rank_from + 7, sampling=sampling)
    found = _eligible(dict(enumerate(scores)), config, positive, tuple(relevant))
    chosen = [candidate.row for candidate in draw_negatives(found, [], config, num, "seed")]
    assert len(chosen) == len(set(chosen)) <= num
    assert [scores[row] for row in chosen] == sorted((scores[row] for row in chosen), reverse=True)
    others = [row for row in range(len(scores)) if row not in relevant]
    for row in chosen:
        assert rank_from <= others.index(row) + 1 <= rank_from + 7
        assert scores[row] < positive - 0.05 * abs(positive) + 1e-9


def test_ranks_are_told_and_nobody_is_skipped() -> None:
    assert window([4, -1, 9, 7, -1], {9}, 1, 5) == [(1, 4), (2, 7)]
    assert window([4, 5, 9, 7, 6], {9}, 2, 3) == [(2, 5), (3, 7)]


def test_bm25_gets_its_share_and_the_rest_is_the_models() -> None:
    model, bm25 = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6}, {11: 0.5, 12: 0.4, 13: 0.3}
    drawn = _drawn(model, bm25, 4, bm25_share=0.5)
    assert [(c.row, c.source) for c in drawn] == [(1, "model"), (2, "model"), (11, "bm25"), (12, "bm25")]
    assert [c.source for c in _drawn(model, bm25, 4, bm25_share=0.0)] == ["model"] * 4
    assert [c.row for c in _drawn(model, bm25, 3, bm25_share=1.0)] == [11, 12, 13]
    assert [c.source for c in _drawn(model, bm25, 3, bm25_share=0.5)] == ["model", "bm25", "bm25"]  # half is rounded up


def test_a_source_that_has_too_few_is_filled_up_from_the_other() -> None:
    assert [c.row for c in _drawn({1: 0.9}, {11: 0.5, 12: 0.4, 13: 0.3}, 4, bm25_share=0.25)] == [1, 11, 12, 13]
    assert [c.row for c in _drawn({1: 0.9, 2: 0.8, 3: 0.7}, {11: 0.5}, 4, bm25_share=0.75)] == [1, 2, 3, 11]


def test_a_document_found_by_both_is_taken_once() -> None:
    drawn = _drawn({1: 0.9, 2: 0.8}, {1: 0.9, 3: 0.1}, 4, bm25_share=0.5)
    assert [c.row for c in drawn] == [1, 2, 3]


def test_the_limits_hold_for_bm25_too() -> None:
    assert [c.row for c in _drawn({1: 0.9}, {11: 0.99, 12: 0.2}, 3, bm25_share=0.5, max_score=0.95)] == [1, 12]


def test_with_a_reranker_its_scores_decide_and_order() -> None:
    config = MiningConfig(num_negatives=2, sampling=Sampling.top)
    cosines, scores = {1: 0.9, 2: 0.8, 3: 0.7}, {1: 0.1, 2: 0.97, 3: 0.5}
    found = eligible(cosines, scores, (), 0.95, config, "model")
    assert found == [Candidate(1, "model", 1, 0.9, 0.1), Candidate(3, "model", 3, 0.7, 0.5)]
    assert [candidate.row for candidate in draw_negatives(found, [], config, 2, "")] == [3, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_negatives": 0},
        {"rank_from": 0},
        {"rank_from": 9, "rank_to": 8},
        {"rank_to": 5, "num_negatives": 6},
        {"max_relative_score": 1.5},
        {"bm25_share": 1.5},
        {"scores": WrittenScores.reranker},
        {"queries_per_block": 0},
    ],
)
def test_senseless_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        MiningConfig(**settings)


def test_scores_are_written_only_where_somebody_asked_for_a_teacher() -> None:
    assert MiningConfig().written_scores is WrittenScores.none
    assert MiningConfig(reranker="r").written_scores is WrittenScores.reranker
    assert MiningConfig(scores=WrittenScores.cosine, reranker="r").written_scores is WrittenScores.cosine
