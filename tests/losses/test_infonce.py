"""Invariants of InfoNCE: it is Eq. 1 for every setting, in value and gradient, whatever tiles, ranks and precision."""

import math
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.losses.infonce import DocumentDocumentThreshold, HardnessMode, InfoNCE
from tests.losses.drawn import ONLY, batches, losses
from tests.losses.infonce_reference import Row, Text, reference_infonce
from tests.losses.rows import embeddings_by_role, gradients, random_batch, text


def reference(loss: InfoNCE, batch: list[Row], local: range | None = None) -> tuple[Tensor, dict[str, float]]:
    options = asdict(loss) | {
        "document_document_threshold": loss.document_document_threshold.value,
        "hardness_mode": loss.hardness_mode.value,
    }
    del options["tile_elements"]
    return reference_infonce(batch, local, **options)


def converted(vectors: Embeddings, dtype: torch.dtype) -> Embeddings:
    return replace(
        vectors,
        queries=vectors.queries.to(dtype),
        positives=vectors.positives.to(dtype),
        negatives=vectors.negatives.to(dtype),
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(losses(), batches())
def test_equals_the_brute_force_sum_for_every_setting(loss: InfoNCE, batch: list[Row]) -> None:
    """Value, gradient of every vector, and metrics equal the loops of infonce_reference.py to 1e-10 in float64."""
    expected, expected_metrics = reference(loss, batch)
    output = loss(embeddings_by_role(batch))
    torch.testing.assert_close(output.loss, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradients(output.loss, batch), gradients(expected, batch), atol=1e-10, rtol=1e-10)
    assert {name: float(value) for name, value in output.metrics.items()} == pytest.approx(expected_metrics, abs=1e-10)
    assert all(value.ndim == 0 and not value.requires_grad for value in output.metrics.values())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(losses(), st.integers(0, 1000), st.sampled_from([[3, 3], [1, 5], [2, 2, 2]]))
def test_ranks_together_are_the_whole(loss: InfoNCE, seed: int, sizes: list[int]) -> None:
    """Rank by rank against all columns: local losses weighted by their queries have value and gradient of the whole."""
    batch = random_batch(seed, 6, most_positives=2, num_texts=8)
    columns = embeddings_by_role(batch)
    mean, first = torch.zeros((), dtype=torch.float64), 0
    for size in sizes:
        local = range(first, first + size)
        output = loss(embeddings_by_role(batch[first : first + size]), columns, first_query=first)
        torch.testing.assert_close(output.loss, reference(loss, batch, local)[0], atol=1e-10, rtol=1e-10)
        mean, first = mean + output.loss * size / 6, first + size
    whole = loss(embeddings_by_role(batch)).loss
    torch.testing.assert_close(mean, whole, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradients(mean, batch), gradients(whole, batch), atol=1e-10, rtol=1e-10)


def test_two_queries_by_hand() -> None:
    """B = 2, unit axes: s+ = 1 and 0.6, all other cosines known, temperature 1, no mask hits."""
    batch = [
        Row(text(0, 1, 0, 0), [text(1, 2, 0, 0)], [text(2, 0, 0, 5)]),
        Row(text(3, 0, 1, 0), [text(4, 0, 0.6, 0.8)]),
    ]
    # query 0: s+ = 1; own negative 0; q-q 0; d-d 0; q-d 0.    query 1: s+ = 0.6; q-q 0; d-d 0; q-d 0.
    first = -math.log(math.e / (math.e + 1 + 1 + 1 + 1))
    second = -math.log(math.exp(0.6) / (math.exp(0.6) + 1 + 1 + 1))
    output = InfoNCE(temperature=1.0)(embeddings_by_role(batch))
    assert output.loss.item() == pytest.approx((first + second) / 2, abs=1e-12)
    assert output.metrics["effective_negatives"].item() == 3.5
    assert output.metrics["masked_share"].item() == 0


def dirty_batch() -> list[Row]:
    """Query 0 has positives 10, 11 and negatives 20, 11 (its own positive). Every vector is an axis of its own.

    Row 1 has the same query text; row 2 has positive 11 too; row 3 has negative 10; row 4 is clean.
    """
    axes = torch.eye(20, dtype=torch.float64)
    axis = iter(axes)

    def fresh(number: int) -> Text:
        return Text(next(axis).clone().requires_grad_(), number)

    return [
        Row(fresh(0), [fresh(10), fresh(11)], [fresh(20), fresh(11)]),
        Row(fresh(0), [fresh(12)], [fresh(21)]),
        Row(fresh(2), [fresh(11)]),
        Row(fresh(3), [fresh(13)], [fresh(10)]),
        Row(fresh(4), [fresh(14)]),
    ]


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        # own negatives: 11 is query 0's own positive
        ({"hard_negatives": True}, 1),
        ({"hard_negatives": True, "mask_identical": False}, 2),
        # q-q of 4: row 1 asks the same, row 2 shares positive 11
        ({"query_query": True}, 2),
        ({"query_query": True, "mask_same_query": False}, 3),
        ({"query_query": True, "mask_identical": False}, 3),
        # documents of the four others: 12 answers the same query, 11 is a positive of query 0
        ({"query_document": True}, 2),
        ({"document_document": True}, 2),
        ({"query_document": True, "mask_same_query": False}, 3),
        ({"document_document": True, "mask_identical": False}, 3),
        # and their negatives: 21 is a negative of the same question and stays, 10 is a positive of query 0
        ({"query_document": True, "gather_hard_negatives": True}, 3),
        ({"document_document": True, "gather_hard_negatives": True, "mask_identical": False}, 5),
    ],
)
def test_a_dirty_batch_masks_exactly_the_right_cells(option: dict[str, bool], kept: int) -> None:
    """All negatives are orthogonal to query 0, so Z counts them: (d_j == d_i+) and same-query masks, cell by cell."""
    batch = dirty_batch()
    output = InfoNCE(**(ONLY | option), temperature=1.0)(embeddings_by_role(batch[:1]), embeddings_by_role(batch))
    # s+ = 0 and every other cosine is 0 too: each cell of Z is exp(0) = 1.
    assert output.loss.item() == pytest.approx(math.log(1 + kept), abs=1e-12)
    assert output.metrics["effective_negatives"].item() == kept


def test_a_masked_cell_gets_no_gradient() -> None:
    batch = dirty_batch()
    loss = InfoNCE(**(ONLY | {"query_document": True}), temperature=1.0)
    value = loss(embeddings_by_role(batch[:1]), embeddings_by_role(batch)).loss
    wanted = [row.positives[0].vector for row in batch[1:]]
    norms = [g.norm().item() for g in torch.autograd.grad(value, wanted)]
    assert norms[:2] == [0, 0]
    assert min(norms[2:]) > 0.1


@pytest.mark.parametrize("term", list(ONLY))
def test_the_margin_is_strict_and_in_units_of_cosine(term: str) -> None:
    """s_ij == s+ + margin stays, a margin smaller by 2**-52 masks it. All numbers are exact: s_ij = 1, s+ = 0.5."""
    half, axis = (1, 1, 1, 1), (1, 0, 0, 0)
    query, positive = text(0, *axis), text(1, *half)
    batch = {
        "hard_negatives": [Row(query, [positive], [text(2, *axis)])],
        "query_query": [Row(query, [positive]), Row(text(2, *axis), [text(3, *half)])],
        "query_document": [Row(query, [positive]), Row(text(2, *half), [text(3, *axis)])],
        "document_document": [Row(query, [positive]), Row(text(2, *axis), [text(3, *half)])],
    }[term]
    option = ONLY | {term: True}
    if term == "document_document":
        option["document_document_threshold"] = DocumentDocumentThreshold.document_document
    for margin, kept in ((0.5, 1), (0.5 - 2**-52, 0)):
        loss = InfoNCE(**option, false_negative_margin=margin)
        output = loss(embeddings_by_role(batch[:1]), embeddings_by_role(batch))
        assert output.metrics["effective_negatives"].item() == kept, margin
        assert output.metrics["masked_share"].item() == 1 - kept


@pytest.mark.parametrize(
    ("threshold", "kept"), [("none", 1), ("query_document", 0), ("document_document", 1)], ids=lambda v: str(v)
)
def test_the_document_document_threshold_compares_the_score_it_names(threshold: str, kept: int) -> None:
    """d_j is close to q_i and far from d_i+: only s(q_i, d_j) exceeds the positive's cosine."""
    batch = [Row(text(0, 1, 0), [text(1, 0, 1)]), Row(text(2, 0, 1), [text(3, 1, 0)])]
    loss = InfoNCE(
        **(ONLY | {"document_document": True}), document_document_threshold=DocumentDocumentThreshold[threshold]
    )
    assert loss(embeddings_by_role(batch[:1]), embeddings_by_role(batch)).metrics["effective_negatives"].item() == kept


def test_the_margin_carries_no_gradient() -> None:
    """Cells masked by the margin leave the gradient of the same cells masked by text, which no score can move."""
    batch = [
        Row(text(0, 1, 0.2, 0), [text(1, 0.3, 1, 0.1)]),
        Row(text(2, 1, 0.5, 0.3), [text(3, 0.1, 0.2, 1)]),
        Row(text(4, -0.3, 0.2, 1), [text(5, 1, 0.1, 0.2)]),
    ]
    loss = InfoNCE(**(ONLY | {"query_document": True}), temperature=0.5)
    by_margin = loss(embeddings_by_role(batch[:1]), embeddings_by_role(batch))
    assert by_margin.metrics["masked_share"].item() == 0.5  # guard: document 5 is masked, and only it
    batch[2].positives[0].text = batch[0].positives[0].text
    by_text = replace(loss, false_negative_margin=None)(embeddings_by_role(batch[:1]), embeddings_by_role(batch))
    assert by_text.metrics["masked_share"].item() == 0.5
    assert torch.equal(gradients(by_margin.loss, batch), gradients(by_text.loss, batch))


def test_hardness_weights_by_the_cosine_without_gradient() -> None:
    """One negative at cosine 0.5, temperature 1: Z has exp(0.5) * exp(2 * 0.5); the gradient sees exp(0.5) alone."""
    batch = [Row(text(0, 1, 0), [text(1, 1, 0)], [text(2, 1, 3**0.5)])]
    output = InfoNCE(temperature=1.0, hardness_strength=2.0, false_negative_margin=None)(embeddings_by_role(batch))
    assert output.loss.item() == pytest.approx(math.log1p(math.exp(0.5 + 1 - 1)), abs=1e-12)
    weighted = math.exp(0.5) / (1 + math.exp(0.5))  # d loss / d cosine of the negative, for a constant weight
    (found,) = torch.autograd.grad(output.loss, batch[0].negatives[0].vector)
    axis = torch.tensor([3**0.5, -1.0], dtype=torch.float64) / 2  # across the negative, towards the query
    torch.testing.assert_close(found, weighted * axis * (3**0.5 / 2) / 2)


def test_columns_it_does_not_need_may_be_missing() -> None:
    """needs_gathered and needs_gathered_negatives tell the truth: without what they disclaim nothing changes."""
    batch = random_batch(4, 6)
    local, gathered = embeddings_by_role(batch[2:4]), embeddings_by_role(batch)
    nobody = replace(
        gathered,
        negatives=gathered.negatives[:0],
        negative_query_idx=gathered.negative_query_idx[:0],
        negative_hash=gathered.negative_hash[:0],
    )
    assert not InfoNCE().needs_gathered_negatives
    assert torch.equal(InfoNCE()(local, nobody, 2).loss, InfoNCE()(local, gathered, 2).loss)
    others = InfoNCE(gather_hard_negatives=True)
    assert others.needs_gathered_negatives
    assert not torch.equal(others(local, nobody, 2).loss, others(local, gathered, 2).loss)
    assert InfoNCE(**(ONLY | {"query_query": True})).needs_gathered
    own = InfoNCE(**(ONLY | {"hard_negatives": True}))
    assert not own.needs_gathered
    assert torch.equal(own(local).loss, own(local, gathered, 2).loss)
    with pytest.warns(UserWarning, match="gather_hard_negatives"):
        assert not InfoNCE(**(ONLY | {"query_query": True}), gather_hard_negatives=True).needs_gathered_negatives


@pytest.mark.parametrize("positive_in_denominator", [True, False])
def test_a_pair_without_negatives_contributes_nothing(positive_in_denominator: bool) -> None:
    """Exactly 0 in value and gradient, not NaN: for a batch of one query, and where every cell is masked."""
    loss = InfoNCE(positive_in_denominator=positive_in_denominator)
    alone = random_batch(0, 1, most_negatives=0)
    twins = [Row(text(0, 1, 0), [text(1, 0.5, 1)], [text(1, 0.5, 1)]), Row(text(0, 1, 0), [text(1, 0.5, 1)])]
    for batch in (alone, twins):
        output = loss(embeddings_by_role(batch))
        assert output.loss.item() == 0
        assert not gradients(output.loss, batch).any()
        assert output.metrics["hardest_negative_cosine"].item() == -1
        assert all(value.isfinite() for value in output.metrics.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.02, 0.001])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype, temperature: float) -> None:
    """The result is that of float64 on the same (rounded) numbers, even where exp(1 / temperature) overflows."""
    vectors = embeddings_by_role(random_batch(1, 16, dim=8, dtype=dtype))
    loss = InfoNCE(temperature=temperature)
    output, expected = loss(vectors), loss(converted(vectors, torch.float64))
    assert output.loss.dtype == torch.float32
    assert expected.loss.dtype == torch.float64
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)


def test_autocast_changes_nothing() -> None:
    batch = random_batch(2, 8, dim=8, dtype=torch.float32)
    plain = InfoNCE()(embeddings_by_role(batch)).loss
    with torch.autocast("cpu", torch.bfloat16):
        guard = (embeddings_by_role(batch).queries @ embeddings_by_role(batch).queries.T).dtype
        mixed = InfoNCE()(embeddings_by_role(batch)).loss
        mixed_gradients = gradients(mixed, batch)
    assert guard == torch.bfloat16  # autocast was on
    assert torch.equal(plain, mixed)
    assert torch.equal(gradients(plain, batch), mixed_gradients)


def test_a_small_loss_keeps_its_digits_in_float32() -> None:
    """The positive leads by 0.5 in cosine: the loss is 4e-11, which log(Z) - s+ / t would round to 0."""
    batch = [Row(text(0, 1, 0), [text(1, 1, 0)], [text(2, 1, 3**0.5)])]
    value = InfoNCE()(converted(embeddings_by_role(batch), torch.float32)).loss
    assert value.item() == pytest.approx(math.exp(-0.5 / 0.02), rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"false_negative_margin": -0.1}, "false_negative_margin=-0.1"),
        ({"tile_elements": 0}, "tile_elements=0"),
        ({"hardness_strength": -1.0}, "hardness_strength=-1.0"),
        (ONLY, "at least one of hard_negatives"),
    ],
)
def test_bad_settings_are_refused_with_key_and_value(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfoNCE(**setting)  # type: ignore[arg-type]


def test_settings_without_effect_warn_and_the_default_does_not() -> None:
    with pytest.warns(UserWarning, match="gather_hard_negatives"):
        InfoNCE(gather_hard_negatives=True, query_document=False, document_document=False)
    with pytest.warns(UserWarning, match="document_document_threshold=none"):
        InfoNCE(document_document_threshold=DocumentDocumentThreshold.none, document_document=False)
    with pytest.warns(UserWarning, match="hardness_mode=hard_negatives with hardness_strength=5"):
        InfoNCE(hard_negatives=False, hardness_strength=5.0, hardness_mode=HardnessMode.hard_negatives)
    with pytest.warns(UserWarning, match="hardness_mode=in_batch_negatives with hardness_strength=0"):
        InfoNCE(hardness_mode=HardnessMode.in_batch_negatives)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InfoNCE()
        InfoNCE(hardness_strength=5.0, hardness_mode=HardnessMode.hard_negatives)
        InfoNCE(query_query=False, document_document=False)  # stage 2 of arXiv 2601.04720


def test_columns_that_do_not_hold_the_local_queries_are_refused() -> None:
    batch = random_batch(0, 4)
    with pytest.raises(ValueError, match=r"Local queries 3\.\.4 are not among the 4 gathered queries"):
        InfoNCE()(embeddings_by_role(batch[:2]), embeddings_by_role(batch), first_query=3)
    with pytest.raises(ValueError, match="Pass all ranks' vectors"):
        InfoNCE()(embeddings_by_role(batch), first_query=1)


def test_a_query_without_positive_is_refused() -> None:
    batch = random_batch(0, 3)
    batch[1].positives.clear()
    with pytest.raises(ValueError, match="Query 1 of the batch has no positive"):
        InfoNCE()(embeddings_by_role(batch))


def test_the_dataclass_is_its_own_schema() -> None:
    """Overrides reach the object, enums by name; a wrong value gives our own message; the base type is abstract."""
    schema = OmegaConf.structured(InfoNCE)
    loss = OmegaConf.to_object(OmegaConf.merge(schema, {"temperature": 0.05, "false_negative_margin": None}))
    assert loss == InfoNCE(temperature=0.05, false_negative_margin=None)
    assert isinstance(loss, EmbeddingLoss)
    by_name = OmegaConf.to_object(OmegaConf.merge(schema, {"document_document_threshold": "none"}))
    assert by_name == InfoNCE(document_document_threshold=DocumentDocumentThreshold.none)
    with pytest.raises(ValueError, match=r"temperature=-1\.0 of InfoNCE must be positive"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"temperature": -1.0}))
    with pytest.raises(TypeError, match="abstract"):
        EmbeddingLoss()  # type: ignore[abstract]


def test_a_temperature_of_rounding_errors_is_refused_with_the_reason() -> None:
    """1e-12 trained at a loss of 3e11."""
    with pytest.raises(ValueError, match=r"temperature=1e-12 of InfoNCE is below 0\.001: .* 1e\+06: .* rounding error"):
        InfoNCE(temperature=1e-12)
