"""A varlen kernel's terms say what the dense grid computes: values and gradients, every family, shared beginnings too.

No kernel runs without a GPU. What both kernels promise (segments that do not see one another, causality aligned at the
last key, windows, grouped queries, the scale) is written out below as a loop, and takes the kernel's place.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.models import packing, varlen
from qwen3emb_train.models.grids import Copy
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.models.varlen import VarlenSpans, flash_attn_kernel, torch_kernel, varlen_kernel_for
from qwen3emb_train.training.determinism import deterministic_algorithms
from tests.tiny import make_tiny_model_directory

WINDOW = 16
INSTRUCTION = [*range(20, 44)]  # longer than the window
TEXTS = [
    [0],  # nothing but the EOS token
    [*INSTRUCTION, 5, 6, 7, 0],
    [9, 0],
    [*INSTRUCTION, 0],
    [*range(60, 95), 3, 0],
    [*INSTRUCTION, *range(100, 140), 0],
    [*INSTRUCTION, 5, 6, 7, 0],  # equal to the second
]
FAMILIES = ["qwen3", "llama", "mistral", "gemma3"]
Kernel = Callable[..., Tensor]


def reference(
    query: Tensor, key: Tensor, value: Tensor, spans: VarlenSpans, *, window: tuple[int, int], scale: float | None
) -> Tensor:
    """The contract of ``varlen_attn`` and ``flash_attn_varlen_func``, segment by segment."""
    assert spans.cu_queries.dtype == spans.cu_keys.dtype == torch.int32  # kernels refuse other integers
    assert query.dtype == key.dtype == value.dtype
    queries, keys = spans.cu_queries.diff().tolist(), spans.cu_keys.diff().tolist()
    assert (spans.longest_query, spans.longest_key) == (max(queries), max(keys))
    assert (sum(queries), sum(keys)) == (len(query), len(key))
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    outputs = []
    for q, k, v in zip(query.split(queries), key.split(keys), value.split(keys), strict=True):
        place = torch.arange(len(q))[:, None] + len(k) - len(q)  # the last query stands at the last key
        distance = place - torch.arange(len(k))[None, :]
        is_hidden = torch.zeros_like(distance, dtype=torch.bool)
        if window[0] >= 0:
            is_hidden |= distance > window[0]
        if window[1] >= 0:
            is_hidden |= -distance > window[1]
        logits = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        weights = logits.masked_fill(is_hidden, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(outputs)


def use(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> list[VarlenSpans]:
    """Puts a kernel where a GPU's would be; returns the spans of each call to come."""
    calls: list[VarlenSpans] = []

    def recorded(*arguments: Tensor | VarlenSpans, window: tuple[int, int], scale: float | None) -> Tensor:
        assert isinstance(arguments[3], VarlenSpans)
        calls.append(arguments[3])
        return kernel(*arguments, window=window, scale=scale)

    monkeypatch.setattr(packing, "varlen_kernel_for", lambda device, dtype, head_dim: recorded)
    return calls


def model_of(family: str, path: Path) -> Path:
    """Tiny models with what big ones have: a window shorter than the texts, a scale that is not 1 / sqrt(head_dim)."""
    changes = {"mistral": {"sliding_window": WINDOW}, "gemma3": {"query_pre_attn_scalar": 3}}
    make_tiny_model_directory(path, family=family)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | changes.get(family, {})))
    return path


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    root = tmp_path_factory.mktemp("varlen")
    found = {family: load_encoder(ModelConfig(path=str(model_of(family, root / family)))) for family in FAMILIES}
    found["bidirectional"] = load_encoder(ModelConfig(path=str(root / "qwen3"), bidirectional=True))
    return {name: encoder.double() for name, encoder in found.items()}


def run(encoder: Encoder, tokens: PackedTokens) -> tuple[Tensor, dict[str, Tensor]]:
    encoder.zero_grad()
    vectors = encoder(tokens)
    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0), dtype=vectors.dtype)
    (vectors * direction.to(vectors.device)).sum().backward()
    return vectors.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_same(
    one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], tolerance: float
) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("is_shared", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("name", [*FAMILIES, "bidirectional"])
def test_the_kernels_terms_give_what_the_dense_grid_gives(
    name: str, is_shared: bool, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "bidirectional" and is_shared:
        pytest.skip("shared beginnings are exact under causal attention only")
    encoder = encoders[name]
    tokens = PackedTokens.from_lists(TEXTS)
    dense = repeated = run(encoder, tokens)
    if is_shared:
        tokens = share_prefixes(tokens)
        assert tokens.num_prefixes == 1
        dense = run(encoder, tokens)
    calls = use(monkeypatch, reference)
    found = run(encoder, tokens)
    tolerance = 1e-6 if name == "gemma3" else 1e-10  # Gemma's norms compute in float32 whatever they are given
    assert_same(found, dense, tolerance)
    assert_same(found, repeated, 1e-6)  # and the grid with nothing shared, whose layout is another one
    assert len(calls) == encoder.config.num_hidden_layers
    assert all(spans is calls[0] for spans in calls), "made once for a forward"


@pytest.mark.parametrize("broken", ["top left", "no window", "one key less", "no scale"])
def test_the_comparison_sees_a_kernel_that_means_something_else(
    broken: str, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Top left is what a kernel could mean by causal where a segment has more keys than queries."""

    def other(
        query: Tensor, key: Tensor, value: Tensor, spans: VarlenSpans, *, window: tuple[int, int], scale: float | None
    ) -> Tensor:
        if broken == "top left":
            keys = [
                part[: len(rows)]
                for part, rows in zip(
                    torch.arange(len(key)).split(spans.cu_keys.diff().tolist()),
                    query.split(spans.cu_queries.diff().tolist()),
                    strict=True,
                )
            ]
            spans = VarlenSpans(spans.cu_queries, spans.cu_queries, spans.longest_query, spans.longest_query)
            key, value = key[torch.cat(keys)], value[torch.cat(keys)]
        if broken == "no window":
            window = (-1, 0)
        if broken == "one key less":
            window = (window[0] - 1, 0)
        return reference(query, key, value, spans, window=window, scale=None if broken == "no scale" else scale)

    encoder = encoders["qwen3" if broken == "top left" else "gemma3"]
    tokens = share_prefixes(PackedTokens.from_lists(TEXTS))
    dense = run(encoder, tokens)
    use(monkeypatch, other)
    assert (run(encoder, tokens)[0] - dense[0]).abs().max() > 1e-3


@pytest.mark.parametrize("is_shared", [False, True], ids=["whole", "shared"])
def test_under_autocast_the_kernel_gets_one_half_precision_type(
    is_shared: bool, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head norms and rotary phases give float32; autocast knows no kernel of ours, and kernels refuse float32."""
    seen: set[torch.dtype] = set()
    asked: list[torch.dtype] = []

    def noting(*arguments: Tensor, window: tuple[int, int], scale: float | None) -> Tensor:
        seen.update(tensor.dtype for tensor in arguments[:3])
        return reference(*arguments, window=window, scale=scale)  # type: ignore[arg-type]

    use(monkeypatch, noting)
    chosen = packing.varlen_kernel_for
    monkeypatch.setattr(
        packing, "varlen_kernel_for", lambda device, dtype, size: (asked.append(dtype), chosen(device, dtype, size))[1]
    )
    encoder = encoders["qwen3"].float()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = PackedTokens.from_lists(TEXTS)
            run(encoder, share_prefixes(tokens) if is_shared else tokens)
    finally:
        encoder.double()
    assert seen == {torch.bfloat16}
    assert set(asked) == {torch.bfloat16}


def test_dropout_in_attention_stays_on_the_dense_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither kernel is asked for it; a kernel that ignored it would train another model."""
    calls = use(monkeypatch, reference)
    query = torch.randn(1, 2, 3, 8)
    layout = packing.PackedLayout.of(PackedTokens.from_lists([[1, 2], [3]]))
    for dropout in (0.5, 0.0):
        packing.packed_attention(torch.nn.Module(), query, query, query, layout=layout, dropout=dropout)
        assert len(calls) == (0 if dropout else 1)


def test_gradients_of_many_copies_add_up_in_float32() -> None:
    """257 is no bf16 number."""
    rows = torch.ones(2, 1, 1, requires_grad=True)
    copies = Copy.apply(rows, torch.zeros(257, dtype=torch.long), torch.bfloat16)
    assert copies.dtype == torch.bfloat16
    copies.sum().backward()
    assert rows.grad is not None
    assert rows.grad.flatten().tolist() == [257.0, 0.0]


CUDA = torch.device("cuda", 0)


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    varlen._torch_settings.cache_clear()
    yield
    varlen._torch_settings.cache_clear()


@pytest.mark.usefixtures("ampere")
def test_the_kernel_is_chosen_where_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert varlen_kernel_for(CUDA, torch.bfloat16, 128) is torch_kernel
    assert varlen_kernel_for(CUDA, torch.float16, 256) is torch_kernel
    assert varlen_kernel_for(torch.device("cpu"), torch.bfloat16, 128) is None
    assert varlen_kernel_for(CUDA, torch.float32, 128) is None
    assert varlen_kernel_for(CUDA, torch.bfloat16, 36) is None
    assert varlen_kernel_for(CUDA, torch.bfloat16, 264) is None
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert varlen_kernel_for(CUDA, torch.float16, 128) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert varlen_kernel_for(CUDA, torch.bfloat16, 128) is None


@pytest.mark.usefixtures("ampere")
def test_flash_attn_serves_where_torch_has_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, is_causal=False: None)
    monkeypatch.setattr(varlen, "find_spec", lambda name: None)
    assert varlen_kernel_for(CUDA, torch.bfloat16, 128) is None
    monkeypatch.setattr(varlen, "find_spec", lambda name: object())
    assert varlen_kernel_for(CUDA, torch.bfloat16, 128) is flash_attn_kernel


@pytest.mark.parametrize("window", [(-1, 0), (WINDOW - 1, 0), (-1, -1)])
def test_torchs_kernel_accepts_what_it_is_given(window: tuple[int, int]) -> None:
    """Its schema and its backward's, on tensors without memory: names, types and shapes, no figures."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query = torch.empty(10, 4, 8, dtype=torch.bfloat16, requires_grad=True)
        key, value = (torch.empty(14, 2, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        bounds = torch.zeros(4, dtype=torch.int32)
        output = torch_kernel(query, key, value, VarlenSpans(bounds, bounds, 4, 6), window=window, scale=0.3)
        output.sum().backward()
        assert output.shape == query.shape
        assert [tensor.grad is not None for tensor in (query, key, value)] == [True] * 3


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), deterministic: bool = False,
) -> Tensor:  # fmt: skip
    """The reference behind flash-attn's parameter names."""
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    spans = VarlenSpans(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    window = (window_size[0], 0 if causal else window_size[1])
    return reference(q, k, v, spans, window=window, scale=softmax_scale)


@wraps(varlen_attn)
def torch_varlen_attn(*arguments: Any, **settings: Any) -> Tensor:
    """The reference behind the parameter names of the torch that is installed."""
    given = inspect.signature(varlen_attn).bind(*arguments, **settings).arguments
    assert given["enable_gqa"] == (given["query"].shape[1] != given["key"].shape[1])
    spans = VarlenSpans(given["cu_seq_q"], given["cu_seq_k"], given["max_q"], given["max_k"])
    window = given.get("window_size", (-1, -1))
    return reference(given["query"], given["key"], given["value"], spans, window=window, scale=given.get("scale"))


@pytest.mark.parametrize("kernel", [torch_kernel, flash_attn_kernel], ids=["torch", "flash_attn"])
@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3", "bidirectional"])
def test_a_kernels_arguments_mean_the_same(
    name: str, kernel: Kernel, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = PackedTokens.from_lists(TEXTS)
    if name != "bidirectional":
        tokens = share_prefixes(tokens)
    dense = run(encoders[name], tokens)
    flash_attn = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)  # type: ignore[arg-type]
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", torch_varlen_attn)
    use(monkeypatch, kernel)
    for is_deterministic in (False, True):  # torch's own kernel asks the switch itself
        with deterministic_algorithms(is_deterministic):
            assert_same(run(encoders[name], tokens), dense, 1e-6 if name == "gemma3" else 1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: varlen kernels run on GPUs alone")
@pytest.mark.parametrize("is_shared", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_real_kernel_gives_what_the_dense_grid_gives(
    name: str, is_shared: bool, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    if varlen_kernel_for(CUDA, torch.bfloat16, 8) is None:
        pytest.skip(f"no varlen kernel for {torch.cuda.get_device_name()}")
    tokens = PackedTokens.from_lists(TEXTS)
    tokens = (share_prefixes(tokens) if is_shared else tokens).to("cuda")
    encoder = encoders[name].float().to("cuda")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            kernel = run(encoder, tokens)
            monkeypatch.setattr(packing, "varlen_kernel_for", lambda device, dtype, head_dim: None)
            dense = run(encoder, tokens)
        exact = run(encoder, tokens)  # float32
    finally:
        encoder.cpu().double()
    for a, b, c in zip(
        [kernel[0], *kernel[1].values()], [dense[0], *dense[1].values()], [exact[0], *exact[1].values()], strict=True
    ):
        rounding = (b - c).norm()  # what bf16 costs on the dense grid
        assert (a - c).norm() <= 4 * rounding + 1e-2 * c.norm()
