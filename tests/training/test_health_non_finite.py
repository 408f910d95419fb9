"""A NaN on one rank stops all of them before the update, and the message says where it began."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.training.health import (
    NonFinite,
    NonFiniteAction,
    NonFiniteError,
    NonFiniteGuard,
    NonFinitePolicy,
)
from qwen3emb_train.training.health.non_finite import bad_queries, nearest_to_cause
from tests.training.health_setup import train, usual_rows

NAN = float("nan")


def make_batch(first_row: int = 0) -> EmbeddingBatch:
    """Three rows; the second has two positives, the third a hard negative."""
    return EmbeddingBatch(
        texts=PackedTokens.from_lists([[1], [2], [3], [4], [5], [6], [7], [8]]),
        query_idx=torch.tensor([0, 1, 2]),
        positive_idx=torch.tensor([3, 4, 5, 6]),
        positive_query_idx=torch.tensor([0, 1, 1, 2]),
        negative_idx=torch.tensor([7]),
        negative_query_idx=torch.tensor([2]),
        text_hash=torch.arange(8),
        source="nq",
        source_names=("nq",),
        row_source=torch.zeros(3, dtype=torch.long),
        row_number=torch.arange(3) + first_row,
    )


def make_rows() -> Embeddings:
    vectors = torch.randn(8, 4)
    batch = make_batch()
    return Embeddings(
        vectors[:3], vectors[3:7], vectors[7:], batch.positive_query_idx, batch.negative_query_idx,
        torch.arange(3), torch.arange(4), torch.arange(1),
    )  # fmt: skip


@pytest.mark.parametrize(("role", "number", "query"), [("queries", 0, 0), ("positives", 2, 1), ("negatives", 0, 2)])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_bad_vector_of_any_role_leads_to_its_row(role: str, number: int, query: int, value: float) -> None:
    rows = make_rows()
    assert bad_queries(rows) == []
    getattr(rows, role)[number, 1] = value
    assert bad_queries(rows) == [query]


def test_finite_metrics_pass_and_forget_earlier_skips() -> None:
    guard = NonFiniteGuard(NonFinitePolicy(NonFiniteAction.skip, max_skipped=1))
    for _ in range(3):
        assert guard.check(4, make_batch(), NAN, True, list, []) is not None
        assert guard.check(5, make_batch(), 1.0, True, list, []) is None


def test_the_message_names_step_source_rank_rows_and_remedy() -> None:
    rows = make_rows()
    rows.positives[2] = NAN
    gradients = [("layers.0.mlp.up_proj.weight", torch.tensor([NAN]))]
    with pytest.raises(
        NonFiniteError,
        match=r"step 7, source nq, not finite: rank 0: vectors of nq row 1, loss nan, gradients of mlp\. "
        r"No update was applied and the last checkpoint is intact\. Lower optimizer\.lr",
    ):
        NonFiniteGuard().check(7, make_batch(), NAN, False, lambda: bad_queries(rows), gradients)


def test_a_gradient_alone_is_found_too() -> None:
    with pytest.raises(NonFiniteError, match=r"rank 0: gradient norm\. No update"):
        NonFiniteGuard().check(0, make_batch(), 1.0, False, list, [])


def test_skipping_too_often_in_a_row_stops_the_run() -> None:
    guard = NonFiniteGuard(NonFinitePolicy(NonFiniteAction.skip, max_skipped=2))
    found = [guard.check(step, make_batch(), NAN, True, list, []) for step in (3, 4)]
    assert [str(one) for one in found] == [f"step {step}, source nq, not finite: rank 0: loss nan" for step in (3, 4)]
    with pytest.raises(NonFiniteError, match=r"2 steps in a row were skipped before"):
        guard.check(5, make_batch(), NAN, True, list, [])


def test_only_the_ranks_nearest_to_the_cause_are_named_and_not_hundreds_of_them() -> None:
    findings = {0: "loss nan, gradient norm", 1: "vectors of nq row 3, loss nan", 2: "gradient norm"}
    assert list(nearest_to_cause(findings)) == [1]
    assert list(nearest_to_cause({0: findings[0], 2: findings[2]})) == [0]
    assert str(NonFinite(1, "", dict.fromkeys(range(512), "loss nan"))).endswith("rank 3: loss nan; and 508 more ranks")


def test_a_policy_that_skips_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_skipped is 0; use 1 or more, or action=stop"):
        NonFinitePolicy(max_skipped=0)


def test_a_real_training_stops_before_the_update_and_names_its_rows(tiny_qwen3: Path, tmp_path: Path) -> None:
    """One token's embedding becomes NaN; only the rows with that token are named."""
    marked = [(f"{query} §" if i == 5 else query, *rest) for i, (query, *rest) in enumerate(usual_rows(tmp_path))]

    def poison(encoder: torch.nn.Module) -> None:
        from qwen3emb_train.data.tokenization import load_tokenizer

        tokenizer = load_tokenizer(str(tiny_qwen3))
        plain = set(tokenizer.tokenize([query.removesuffix(" §") for query, *_ in marked], 64)[5])
        token = next(t for t in tokenizer.tokenize([marked[5][0]], 64)[0] if t not in plain)
        encoder.backbone.get_input_embeddings().weight.data[token] = NAN  # type: ignore[union-attr, operator]

    with pytest.raises(NonFiniteError, match=r"source rows, not finite: rank 0: vectors of rows row 5, loss nan"):
        train(tiny_qwen3, marked, steps=4, every=10, prepare=poison)  # type: ignore[arg-type]
