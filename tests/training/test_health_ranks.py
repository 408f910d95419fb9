"""Two ranks: the metrics are those of the whole batch, and a NaN on one rank stops both in the same words."""

from typing import Any

import pytest
import torch

from qwen3emb_train.distributed import rank
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.training.health import NonFiniteAction, NonFiniteError, NonFiniteGuard, NonFinitePolicy
from qwen3emb_train.training.health.gradients import gradient_norms_by_group
from qwen3emb_train.training.health.non_finite import bad_queries, gather_texts
from qwen3emb_train.training.health.vectors import sum_over_ranks, vector_health, vector_metrics
from qwen3emb_train.training.health.weights import WeightWatch
from tests.ranks import run_on_ranks
from tests.training import test_health_non_finite as non_finite
from tests.training.test_health_vectors import MARGIN, make_rows

NAN = float("nan")


def half(rows: Embeddings, first: bool) -> Embeddings:
    """Queries 0..5 or 6..11, owners counted from 0."""

    def part(owner: torch.Tensor) -> torch.Tensor:
        return (owner < 6) if first else (owner >= 6)

    start = 0 if first else 6
    positives, negatives = part(rows.positive_query_idx), part(rows.negative_query_idx)
    return Embeddings(
        rows.queries[start : start + 6], rows.positives[positives], rows.negatives[negatives],
        rows.positive_query_idx[positives] - start, rows.negative_query_idx[negatives] - start,
        rows.query_hash[start : start + 6], rows.positive_hash[positives], rows.negative_hash[negatives],
    )  # fmt: skip


def metrics_of_halves() -> tuple[dict[str, object], dict[str, float], dict[str, float]]:
    """Vectors by halves; a gradient and a weight by halves, and one that only rank 1 holds."""
    rows = make_rows()
    local = half(rows, first=rank() == 0)
    sums = sum_over_ranks(vector_health(local, rows, 6 * rank(), false_negative_margin=MARGIN))
    weight = torch.arange(1.0, 7.0)[rank() * 3 : rank() * 3 + 3]
    gradients = [("layers.0.mlp.up_proj.weight", weight)]
    if rank() == 1:
        gradients.append(("layers.5.self_attn.q_proj.weight", torch.tensor([2.0])))
    norms = gradient_norms_by_group(gradients, num_layers=6, sharded=True)
    watch = WeightWatch([("layers.0.mlp.up_proj.weight", weight)])
    moved = weight + (rank() == 1)
    movement = sum_over_ranks(watch.movement([("layers.0.mlp.up_proj.weight", moved)]))
    return dict(vector_metrics(sums)), norms, watch.metrics(movement, 4)


def message_of_a_bad_step(action: NonFiniteAction) -> tuple[str, list[float]]:
    """Rank 1's vectors go bad: its NaN reaches rank 0's loss through the gather. A weight on each would be updated."""
    weight = torch.ones(2)
    guard = NonFiniteGuard(NonFinitePolicy(action))
    batch, rows = non_finite.make_batch(first_row=100 * rank()), non_finite.make_rows()
    if rank() == 1:
        rows.negatives[0, 0] = NAN
    try:
        found = guard.check(2, batch, NAN, False, lambda: bad_queries(rows), [("norm.weight", torch.tensor([NAN]))])
        message = str(found)
        if found is None:
            weight -= 1
    except NonFiniteError as error:
        message = str(error)
    return message, weight.tolist()


def on_one_of_two_ranks() -> dict[str, Any]:
    one_sided = NonFiniteGuard(NonFinitePolicy(NonFiniteAction.skip)).check(
        5, non_finite.make_batch(), 1.0, rank() == 0, list, []
    )
    return {
        "metrics": metrics_of_halves(),
        "texts": gather_texts("größer" if rank() else ""),
        "one_sided": str(one_sided),
        **{action.value: message_of_a_bad_step(action) for action in NonFiniteAction},
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What both ranks found; it must be the same."""
    one, other = run_on_ranks(on_one_of_two_ranks, 2)
    assert one == other
    return dict(one)


def test_two_ranks_say_what_one_says_of_the_whole_batch(found: dict[str, Any]) -> None:
    one = vector_metrics(vector_health(make_rows(), false_negative_margin=MARGIN))
    metrics, norms, movement = found["metrics"]
    assert metrics.keys() == one.keys()
    for name, value in one.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name
    assert norms == pytest.approx(
        {
            "gradient_norm/mlp": 91**0.5,
            "gradient_norm/attention": 2.0,
            "gradient_norm/first_layers": 91**0.5,
            "gradient_norm/last_layers": 2.0,
        }
    )
    assert movement["weights/moved_share"] == 0.5


@pytest.mark.parametrize("action", list(NonFiniteAction))
def test_every_rank_says_the_same_and_none_updates(found: dict[str, Any], action: NonFiniteAction) -> None:
    message, weight = found[action.value]
    assert "step 2, source nq, not finite: rank 1: vectors of nq row 102, loss nan, gradients of norms" in message
    assert ("No update was applied" in message) == (action is NonFiniteAction.stop)
    assert weight == [1, 1]


def test_a_gradient_that_only_one_rank_sees_holds_both_back(found: dict[str, Any]) -> None:
    assert found["one_sided"] == "step 5, source nq, not finite: rank 1: gradient norm"
    assert found["texts"] == {1: "größer"}
