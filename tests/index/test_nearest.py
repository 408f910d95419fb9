"""The blockwise search equals sorting the whole matrix of float64 scores, ties included, whichever filter is used."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3emb_train.index import nearest
from qwen3emb_train.index.nearest import candidate_scores, rank_candidates, top_k_documents
from qwen3emb_train.index.vector_rows import TensorRows


def _by_sorting(queries: torch.Tensor, documents: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Brute force in float64."""
    scores = queries.double() @ documents.double().T
    rows = scores.round(decimals=12).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, rows).float(), rows


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(params=[[torch.bfloat16, torch.float32], [torch.float32]], ids=["bf16 first", "fp32 first"])
def filters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The filters that a CPU with AMX gets, and those of another one."""
    chosen: list[torch.dtype] = request.param
    monkeypatch.setattr(nearest, "filter_types", lambda query_type, device: list(chosen))
    return chosen


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    num_queries=st.integers(0, 9),
    num_documents=st.integers(1, 40),
    k=st.integers(1, 45),
    block_elements=st.integers(1, 500),
)
def test_blocks_equal_sorting_the_full_matrix_ties_included(
    filters: list[torch.dtype], seed: int, num_queries: int, num_documents: int, k: int, block_elements: int
) -> None:
    """Small integers: sums are exact in any order, and most scores occur several times."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (num_queries, 3), generator=generator).float()
    documents = torch.randint(-1, 2, (num_documents, 3), generator=generator).float()
    scores, rows = top_k_documents(queries, documents, k, block_elements)
    expected_scores, expected_rows = _by_sorting(queries, documents, k)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(rows, expected_rows)


def test_equal_documents_come_in_row_order(filters: list[torch.dtype]) -> None:
    documents = torch.ones(50, 4)
    _, rows = top_k_documents(torch.ones(2, 4), documents, 7, block_elements=64)
    assert rows.tolist() == [list(range(7))] * 2


def test_real_valued_vectors_across_many_blocks(filters: list[torch.dtype]) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(33, 16, generator=generator), torch.randn(501, 16, generator=generator)
    scores, rows = top_k_documents(queries, documents, 20, block_elements=1000)
    expected_scores, expected_rows = _by_sorting(queries, documents, 20)
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(scores, expected_scores)


def test_the_order_is_that_of_float64_where_float32_cannot_tell(filters: list[torch.dtype]) -> None:
    """Thousands of documents within float32's error of one another: there the float32 product sorts otherwise."""
    queries, base = _unit(40, 128), _unit(1, 128, seed=1)
    documents = base + 2e-7 * torch.randn(3000, 128, generator=torch.Generator().manual_seed(2))
    _, expected = _by_sorting(queries, documents, 40)
    assert not torch.equal((queries @ documents.T).topk(40).indices, expected), "the test would be vacuous"
    for block_elements in (2**10, 2**14, 2**24):
        assert torch.equal(top_k_documents(queries, documents, 40, block_elements)[1], expected)


@pytest.mark.parametrize("num_documents", [640, 5000])
def test_block_sizes_do_not_change_a_bit(
    filters: list[torch.dtype], num_documents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though most of it is found by a filter, by groups of columns; and not by way of the slow search."""
    monkeypatch.setattr(nearest, "_search_in_float64", None)
    queries, documents = _unit(50, 48), _unit(num_documents, 48, seed=1)
    expected = _by_sorting(queries, documents, 10)
    for block_elements in (999, 2**13, 2**16, 2**24):
        scores, rows = top_k_documents(queries, documents, 10, block_elements)
        assert torch.equal(rows, expected[1])
        assert torch.equal(scores, expected[0])


def test_queries_that_a_filter_cannot_settle_go_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it fails for most, the other queries go without it."""
    monkeypatch.setattr(nearest, "filter_types", lambda query_type, device: [torch.bfloat16, torch.float32])
    monkeypatch.setattr(nearest, "_search_in_float64", None)
    find, tried = nearest.find_candidates, []

    def recorded(queries: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        tried.append((rest[5], len(queries)))
        return find(queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(nearest, "find_candidates", recorded)
    base = _unit(1, 64, seed=1)
    near = base + 1e-3 * torch.randn(600, 64, generator=torch.Generator().manual_seed(2))
    documents = torch.cat([near, _unit(600, 64, seed=3)])
    for queries, expected in (
        (base + 0.1 * _unit(40, 64), [(torch.bfloat16, 20), (torch.float32, 20), (torch.float32, 20)]),
        (-base + 0.1 * _unit(40, 64), [(torch.bfloat16, 20), (torch.bfloat16, 20)]),
    ):
        tried.clear()
        _, rows = top_k_documents(queries, documents, 80, block_elements=1600)  # 20 queries at a time
        assert torch.equal(rows, _by_sorting(queries, documents, 80)[1])
        assert tried == expected


@pytest.fixture
def coarse_products() -> Iterator[None]:
    """As ``torch.set_float32_matmul_precision("medium")`` makes them."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_float32_products_that_are_none_are_not_believed(coarse_products: None) -> None:
    assert torch.float32 not in nearest.filter_types(torch.float32, torch.device("cpu"))
    queries, base = _unit(7, 128), _unit(1, 128, seed=1)
    documents = base + 1e-4 * torch.randn(3000, 128, generator=torch.Generator().manual_seed(2))
    assert torch.equal(top_k_documents(queries, documents, 40)[1], _by_sorting(queries, documents, 40)[1])


def test_documents_may_be_read_piece_by_piece_and_only_the_first_of_them() -> None:
    queries, documents = _unit(5, 16), _unit(300, 16, seed=1)
    found = top_k_documents(queries, TensorRows(documents), 9, 1000, num_documents=200)
    assert torch.equal(found[1], _by_sorting(queries, documents[:200], 9)[1])


def test_candidates_are_ranked_and_nobody_comes_last() -> None:
    queries, documents = _unit(3, 16), _unit(50, 16, seed=1)
    candidates = torch.tensor([[7, -1, 3, 40], [1, 2, 3, 4], [-1, -1, -1, 9]])
    scores, rows = rank_candidates(queries, TensorRows(documents), candidates, 3)
    exact = queries.double() @ documents.double().T
    assert rows[0, :3].tolist() == sorted([7, 3, 40], key=lambda row: -float(exact[0, row]))
    assert rows[2].tolist() == [9, -1, -1]
    assert scores[2, 1:].tolist() == [float("-inf")] * 2
    own = candidate_scores(queries, TensorRows(documents), candidates)
    assert own[2].tolist() == [float("-inf")] * 3 + [float(exact[2, 9].float())]
    torch.testing.assert_close(own[1], exact[1, 1:5].float(), rtol=0, atol=0)


def test_candidates_are_told_apart_below_the_resolution_of_float32() -> None:
    queries, base = _unit(2, 64), _unit(1, 64, seed=1)
    documents = base + 1e-8 * torch.randn(200, 64, generator=torch.Generator().manual_seed(2))
    everybody = torch.arange(200).flip(0).repeat(2, 1)
    _, rows = rank_candidates(queries, TensorRows(documents), everybody, 200)
    assert torch.equal(rows, _by_sorting(queries, documents, 200)[1])
    assert len((queries.double() @ documents.double().T).float()[0].unique()) < 50, "the test would be vacuous"


def test_scores_that_count_as_equal_go_by_row_however_well_a_filter_tells_them_apart(
    filters: list[torch.dtype],
) -> None:
    """The products of short vectors are exact to 20 decimals, but their order counts to the twelfth only."""
    queries, documents = 1e-7 * _unit(2, 8), 1e-7 * _unit(200, 8, seed=1)
    assert top_k_documents(queries, documents, 5)[1].tolist() == [list(range(5))] * 2


def test_documents_in_rising_order_are_found() -> None:
    """Then every block holds more of the best than all before it."""
    query = _unit(1, 16)
    documents = torch.linspace(0.1, 1, 3000)[:, None] * query
    assert top_k_documents(query, documents, 8, 2**16)[1].tolist() == [list(range(2999, 2991, -1))]


def test_no_more_scores_than_allowed_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full matrix has 40,000 scores; no product may exceed the 900 allowed."""
    monkeypatch.setattr(nearest, "filter_types", lambda query_type, device: [torch.float32])
    sizes = []
    multiply = torch.mm

    def recorded(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sizes.append(out.numel())
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", recorded)
    top_k_documents(_unit(200, 4), _unit(200, 4, seed=1), 5, block_elements=900)
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
        top_k_documents(torch.ones(1, 2), documents, 1, block_elements=1)
    with pytest.raises(ValueError, match="queries: vector 2 is not finite"):
        top_k_documents(documents, torch.ones(4, 2), 1, block_elements=1)


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
