"""What hypothesis draws for the tests of InfoNCE: settings and batches."""

import warnings
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from qwen3emb_train.losses.infonce import DocumentDocumentThreshold, HardnessMode, InfoNCE
from tests.losses.infonce_reference import Row
from tests.losses.rows import random_batch

ONLY: dict[str, Any] = {
    "hard_negatives": False,
    "query_query": False,
    "document_document": False,
    "query_document": False,
}


@st.composite
def losses(draw: st.DrawFn) -> InfoNCE:
    """Any valid setting."""
    flags = st.booleans()
    on = {name: draw(flags) for name in ONLY}
    assume(any(on.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return InfoNCE(
            **on,
            temperature=draw(st.sampled_from([0.05, 0.5, 1.0])),
            positive_in_denominator=draw(flags),
            false_negative_margin=draw(st.sampled_from([None, 0.0, 0.1, 0.5])),
            mask_hard_negatives=draw(flags),
            document_document_threshold=draw(st.sampled_from(DocumentDocumentThreshold)),
            mask_identical=draw(flags),
            mask_same_query=draw(flags),
            gather_hard_negatives=draw(flags),
            hardness_strength=draw(st.sampled_from([0.0, 0.0, 5.0])),
            hardness_mode=draw(st.sampled_from(HardnessMode)),
            tile_elements=draw(st.sampled_from([1, 17, 40, 2**24])),
        )


@st.composite
def batches(draw: st.DrawFn, dim: int = 3) -> list[Row]:
    """Clean and dirty batches: one to several positives, none to several negatives, many or few distinct texts."""
    return random_batch(
        draw(st.integers(0, 10_000)),
        draw(st.integers(1, 5)),
        most_positives=draw(st.sampled_from([1, 3])),
        most_negatives=draw(st.sampled_from([0, 3])),
        num_texts=draw(st.sampled_from([3, 8, 1000])),
        dim=dim,
    )
