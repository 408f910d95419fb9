"""Storage is Sentence-Transformers': the same codes, and the score by which its quantised search sorts."""

import numpy as np
import pytest
import torch

from qwen3emb_train.evaluation.retrieval import rank
from qwen3emb_train.evaluation.stored_vectors import StoredAs, int8_codes, stored

VECTORS = torch.nn.functional.normalize(torch.randn(120, 20, generator=torch.Generator().manual_seed(0)), dim=1)
QUERIES = torch.nn.functional.normalize(torch.randn(15, 20, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture(scope="module")
def quantization():  # type: ignore[no-untyped-def]
    return pytest.importorskip("sentence_transformers.util.quantization")


def test_int8_codes_are_theirs(quantization) -> None:  # type: ignore[no-untyped-def]
    constant = torch.cat([VECTORS, torch.full((120, 1), 0.25)], dim=1)  # a component without a range
    codes, lowest, steps = int8_codes(constant)
    assert np.array_equal(codes.numpy(), quantization.quantize_embeddings(constant, "int8"))
    ranges = np.vstack((constant.numpy().min(axis=0), constant.numpy().max(axis=0)))
    theirs = quantization._dequantize_embeddings(codes.numpy(), "int8", ranges)
    assert stored(constant, StoredAs.int8).numpy() == pytest.approx(theirs, abs=1e-6)
    assert ((stored(constant, StoredAs.int8) - constant).abs() <= steps + 1e-6).all()
    assert (lowest <= constant).all()


@pytest.mark.parametrize(("form", "precision"), [(StoredAs.int8, "uint8"), (StoredAs.binary, "ubinary")])
def test_documents_are_ranked_as_their_search_ranks_what_it_scores_again(  # type: ignore[no-untyped-def]
    quantization, form: StoredAs, precision: str
) -> None:
    """Every document is scored again; compared are the scores, since documents of equal bits may stand in any order."""
    pytest.importorskip("faiss")
    dim = 16  # whole bytes, which faiss wants of bits
    ours = rank(QUERIES, VECTORS, dim, form, 120)
    queries, documents = (torch.nn.functional.normalize(vectors[:, :dim]).numpy() for vectors in (QUERIES, VECTORS))
    theirs, _ = quantization.semantic_search_faiss(
        queries, quantization.quantize_embeddings(documents, precision), corpus_precision=precision, top_k=120,
        calibration_embeddings=documents, rescore_multiplier=1, exact=True,
    )  # fmt: skip
    for rows, hits in zip(ours.tolist(), theirs, strict=True):
        score = {hit["corpus_id"]: hit["score"] for hit in hits}
        assert [score[row] for row in rows] == pytest.approx(sorted(score.values(), reverse=True), abs=1e-4)


def test_binary_vectors_are_signs_of_unit_length() -> None:
    kept = stored(VECTORS, StoredAs.binary)
    assert torch.equal(kept > 0, VECTORS > 0)
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(120))
    assert stored(VECTORS, StoredAs.float32) is VECTORS
