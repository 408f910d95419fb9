"""What a filter takes out cannot be among the best: its products are never farther off than said."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen3emb_train.index import candidates
from qwen3emb_train.models.precision import Precision


@pytest.mark.parametrize("work_type", [torch.bfloat16, torch.float32])
@settings(max_examples=60, deadline=None)
@example(seed=0, dim=257, sign=1, size=0)  # and the sum 257 is rounded to 256
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 700), sign=st.sampled_from([-1, 0, 1]), size=st.integers(-9, 9))
def test_a_product_is_never_farther_off_than_its_bound(
    work_type: torch.dtype, seed: int, dim: int, sign: int, size: int
) -> None:
    """Not in the worst case either, where every component is rounded the same way: 1 + 2**-8 lies between bfloat16s."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (torch.randn(5, dim, generator=generator) for _ in range(2))
    if sign:
        step = 2.0**-8 if work_type is torch.bfloat16 else 0.3
        queries, documents = (
            1 + (0.99 * sign * step) * vectors.abs().clamp(0.9, 1) for vectors in (queries, documents)
        )
    queries = queries * 2.0**size
    rounded = documents.to(work_type)
    product = (queries.to(work_type) @ rounded.T).double()
    longest, most_lost = float(documents.norm(dim=1).max()), float(candidates._lost(documents, rounded).max())
    exact = queries.double() @ documents.double().T
    for scores, truth in zip(product.T, exact.T, strict=True):
        bound = candidates._error(queries, queries.to(work_type), longest, most_lost, scores)
        assert ((scores - truth).abs() <= bound).all()
        assert (bound <= 0.013 * queries.norm(dim=1) * longest + 1e-9).all(), "a bound that wide would settle nothing"


def test_a_cpu_with_amx_filters_in_bfloat16_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for fastest, expected in (("bf16", [torch.bfloat16, torch.float32]), ("fp32", [torch.float32])):
        monkeypatch.setattr(candidates, "resolve_precision", lambda *_, fastest=fastest: Precision(fastest))
        assert candidates.filter_types(torch.float32, torch.device("cpu")) == expected
        assert candidates.filter_types(torch.float32, torch.device("cuda")) == [torch.float32]
        assert candidates.filter_types(torch.float64, torch.device("cpu")) == [torch.float64]
