"""Batches are what the rows say: tokens, owners, scores, where each row comes from."""

import numpy as np
import pytest
import torch

from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.data.collators import EmbeddingCollator
from qwen3emb_train.data.mixture import LengthConfig, SourceConfig
from qwen3emb_train.data.token_store import TokenStore
from tests.data.stores import make_store

LENGTHS = LengthConfig(max_query_tokens=4, max_document_tokens=6)


def collate(
    stores: dict[str, TokenStore],
    rows: list[tuple[int, int]],
    *,
    sources: dict[str, SourceConfig] | None = None,
    members: tuple[int, ...] = (0,),
    step: int = 0,
    lengths: LengthConfig = LENGTHS,
) -> EmbeddingBatch:
    """Of rows (number of the source, row)."""
    sources = {name: SourceConfig() for name in stores} | (sources or {})
    planned = Step("stream", "retrieval", np.array([s for s, _ in rows]), np.array([r for _, r in rows]), 0)
    return EmbeddingCollator(sources, stores, lengths, eos_token_id=0, seed=0)(step, planned, members)


def texts_of(batch: EmbeddingBatch, rows: torch.Tensor) -> list[list[int]]:
    bounds = batch.texts.cu_seqlens
    return [batch.texts.input_ids[bounds[row] : bounds[row + 1]].tolist() for row in rows]


def test_texts_are_cut_to_their_roles_limit_and_closed() -> None:
    store = make_store([(7, [8, 9], [5]), (6, [5], [])], tokens=[10, 2])
    batch = collate({"a": store}, [(0, 1), (0, 0)])
    assert texts_of(batch, batch.query_idx) == [[6, 6, 0], [7, 7, 7, 0]]
    assert texts_of(batch, batch.positive_idx) == [[5, 5, 0], [8] * 5 + [0], [9] * 5 + [0]]
    assert batch.positive_query_idx.tolist() == [0, 1, 1]
    assert batch.negative_query_idx.tolist() == [1]
    assert batch.text_hash[batch.query_idx].tolist() == [6, 7]
    assert batch.texts.position_ids.tolist()[:5] == [0, 1, 2, 0, 1]


def test_a_text_lies_there_once_for_each_limit_it_is_cut_to() -> None:
    store = make_store([(7, [8], [9]), (9, [7], [8])])
    batch = collate({"a": store}, [(0, 0), (0, 1)])
    assert batch.text_hash.tolist() == [7, 9, 8, 7, 9]  # 7 and 9 are a query and a document each
    assert batch.negative_idx.tolist() == [4, 2]
    alike = collate({"a": store}, [(0, 0), (0, 1)], lengths=LengthConfig(6, 6))
    assert alike.text_hash.tolist() == [7, 9, 8]


def test_rows_of_mixed_sources_keep_their_places_their_scores_and_their_names() -> None:
    stores = {
        "b": make_store([(11, [12], [13, 14]), (15, [16], [])], tokens=[2, 2]),
        "a": make_store([(21, [22, 23], [12]), (15, [16], [24])], tokens=[1, 1], with_scores=True),
    }
    batch = collate(stores, [(1, 0), (0, 1), (0, 0), (1, 1)], members=(0, 1))
    assert batch.source_names == ("a", "b")
    assert batch.row_source is not None
    assert batch.row_number is not None
    assert batch.row_source.tolist() == [1, 0, 0, 1]
    assert batch.row_number.tolist() == [0, 1, 0, 1]
    assert batch.describe_rows([0, 1]) == "b row 0, a row 1"
    assert (batch.source, batch.task) == ("stream", "retrieval")
    assert batch.text_hash[batch.query_idx].tolist() == [11, 15, 21, 15]
    assert batch.text_hash[batch.positive_idx].tolist() == [12, 16, 22, 23, 16]
    assert batch.positive_query_idx.tolist() == [0, 1, 2, 2, 3]
    assert batch.text_hash[batch.negative_idx].tolist() == [13, 14, 24, 12]
    assert batch.negative_query_idx.tolist() == [0, 0, 1, 2]
    assert batch.positive_scores is not None
    assert batch.negative_scores is not None
    nan = float("nan")
    torch.testing.assert_close(batch.positive_scores, torch.tensor([nan, 16, 22, 23, nan]), equal_nan=True)
    torch.testing.assert_close(batch.negative_scores, torch.tensor([nan, nan, 24, 12]), equal_nan=True)
    assert texts_of(batch, batch.query_idx) == [[11, 11, 0], [15, 0], [21, 0], [15, 0]]  # first come, first stored


def test_all_ranks_agree_whether_a_step_has_scores() -> None:
    stores = {"a": make_store([(1, [2], [])], with_scores=True), "b": make_store([(3, [4], [])])}
    with_scores = collate(stores, [(1, 0)], members=(0, 1))  # this rank's slice holds rows of b alone
    assert with_scores.positive_scores is not None
    assert with_scores.positive_scores.isnan().all()
    assert with_scores.negative_scores is not None
    assert collate(stores, [(1, 0)], members=(1,)).positive_scores is None


def test_limits_draw_some_of_each_rows_documents_anew_at_every_step() -> None:
    rows = [(100 * r, [100 * r + 1, 100 * r + 2], list(range(100 * r + 3, 100 * r + 3 + r))) for r in range(1, 6)]
    store = {"a": make_store(rows, with_scores=True)}
    sources = {"a": SourceConfig(max_positives=1, max_negatives=2)}
    drawn = []
    for step in range(60):
        batch = collate(store, [(0, r) for r in range(5)], sources=sources, step=step)
        assert batch.positive_query_idx.tolist() == [0, 1, 2, 3, 4]
        assert batch.negative_query_idx.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
        negatives = batch.text_hash[batch.negative_idx]
        assert (negatives // 100 - 1).tolist() == batch.negative_query_idx.tolist()  # each row's own
        assert batch.negative_scores is not None
        assert batch.negative_scores.tolist() == negatives.tolist()  # each document's own
        drawn.append((*batch.text_hash[batch.positive_idx].tolist(), *negatives.tolist()))
    assert len(set(drawn)) > 50
    alone = collate(store, [(0, 4)], sources=sources, step=7)  # what a row draws is no matter of its company
    assert alone.text_hash[alone.negative_idx].tolist() == list(drawn[7][-2:])
    counts = np.bincount([text for step in drawn for text in step[-2:]])[503:508]
    assert counts.min() > 12  # 24 expected
    none = collate(store, [(0, 4)], sources={"a": SourceConfig(max_negatives=0)})
    assert len(none.negative_idx) == 0


@pytest.mark.parametrize(
    "field", ["query_idx", "positive_query_idx", "negative_idx", "negative_query_idx", "row_number"]
)
def test_indices_are_torch_longs_also_when_there_are_none(field: str) -> None:
    batch = collate({"a": make_store([(1, [2], [])])}, [(0, 0)])
    assert getattr(batch, field).dtype == torch.long
