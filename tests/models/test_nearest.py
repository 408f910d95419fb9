"""The blockwise search equals sorting the whole score matrix, to the bit and ties included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.models.nearest import top_k_documents


def _by_sorting(queries: torch.Tensor, documents: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores, rows = (queries @ documents.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], rows[:, :k]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_queries=st.integers(0, 9),
    num_documents=st.integers(1, 40),
    k=st.integers(1, 45),
    block_elements=st.integers(1, 500),
)
def test_blocks_equal_sorting_the_full_matrix_ties_included(
    seed: int, num_queries: int, num_documents: int, k: int, block_elements: int
) -> None:
    """Small integers: sums are exact in any order, and most scores occur several times."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (num_queries, 3), generator=generator).float()
    documents = torch.randint(-1, 2, (num_documents, 3), generator=generator).float()
    scores, rows = top_k_documents(queries, documents, k, block_elements)
    expected_scores, expected_rows = _by_sorting(queries, documents, k)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(rows, expected_rows)


def test_equal_documents_come_in_row_order() -> None:
    documents = torch.ones(50, 4)
    _, rows = top_k_documents(torch.ones(2, 4), documents, 7, block_elements=64)
    assert rows.tolist() == [list(range(7))] * 2


def test_real_valued_vectors_across_many_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(33, 16, generator=generator), torch.randn(501, 16, generator=generator)
    scores, rows = top_k_documents(queries, documents, 20, block_elements=1000)
    expected_scores, expected_rows = _by_sorting(queries, documents, 20)
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(scores, expected_scores)


def test_no_more_scores_than_allowed_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full matrix has 40,000 scores; no product may exceed the 900 allowed."""
    sizes = []
    multiply = torch.Tensor.__matmul__

    def recorded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = multiply(left, right)
        sizes.append(product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    top_k_documents(torch.ones(200, 2), torch.ones(200, 2), 5, block_elements=900)
    assert sizes
    assert max(sizes) <= 900
    assert sum(sizes) == 40_000


@pytest.mark.parametrize(("k", "block_elements"), [(0, 100), (3, 0)])
def test_senseless_sizes_are_refused(k: int, block_elements: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k_documents(torch.ones(1, 2), torch.ones(3, 2), k, block_elements)


def test_vectors_that_are_not_finite_are_refused_by_row() -> None:
    documents = torch.ones(4, 2)
    documents[2, 1] = float("nan")
    with pytest.raises(ValueError, match="documents: vector 2 is not finite"):
        top_k_documents(torch.ones(1, 2), documents, 1)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_rows() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator().manual_seed(1)
    queries = torch.randint(-2, 3, (70, 8), generator=generator).float()
    documents = torch.randint(-2, 3, (900, 8), generator=generator).float()
    found = top_k_documents(queries, documents, 30, block_elements=5000, device="cuda")
    expected = _by_sorting(queries, documents, 30)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
