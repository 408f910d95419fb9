"""Invariants of encoding for search: order, length 1, and the same bits from any number of processes."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwen3emb_train.index.inference import ParallelTextEncoder, TextEncoder
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.precision import Precision
from tests.index.store_setup import make_texts
from tests.tiny import make_tiny_model_directory

TEXTS = [text for _, text in make_texts(60)]
SETTINGS = {"max_tokens": 16, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def single(tiny_qwen3: Path) -> TextEncoder:
    return TextEncoder.load(str(tiny_qwen3), **SETTINGS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def double(tiny_qwen3: Path) -> Iterator[ParallelTextEncoder]:
    with ParallelTextEncoder(str(tiny_qwen3), num_processes=2, threads_per_process=1, **SETTINGS) as encoder:  # type: ignore[arg-type]
        yield encoder


def test_vectors_come_in_the_order_of_the_texts_at_length_one(single: TextEncoder) -> None:
    vectors = single.encode(TEXTS, tokens_per_batch=100)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    for row in (0, 17, 59):
        torch.testing.assert_close(single.encode([TEXTS[row]])[0], vectors[row], atol=1e-6, rtol=1e-5)


def test_a_prefix_is_cut_before_the_norm(single: TextEncoder) -> None:
    full, cut = single.encode(TEXTS[:5]), single.encode(TEXTS[:5], dim=4)
    torch.testing.assert_close(cut, torch.nn.functional.normalize(full[:, :4], dim=1))


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gemma3"])
def test_what_is_rounded_once_gives_the_bits_of_autocast(family: str, tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model", family=family)
    rounded = TextEncoder.load(str(model), precision="bf16", device="cpu")
    linear = [module for module in rounded.encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert {module.weight.dtype for module in linear} == {torch.bfloat16}  # guard
    encoder = load_encoder(ModelConfig(path=str(model)))
    by_autocast = TextEncoder(encoder, rounded.tokenizer, precision=Precision.bf16, device="cpu")
    assert torch.equal(rounded.encode(TEXTS), by_autocast.encode(TEXTS))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}  # it belongs to the caller


def test_a_cpu_gets_no_larger_batches_than_it_does_fast(single: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    raw_vectors = single.raw_vectors

    def noted(tokens: list[list[int]]) -> torch.Tensor:
        sizes.append(sum(map(len, tokens)))
        return raw_vectors(tokens)

    monkeypatch.setattr(single, "raw_vectors", noted)
    single.encode(TEXTS * 8, tokens_per_batch=10**6)
    assert len(sizes) > 1
    assert max(sizes) <= 2048


def test_no_texts_give_no_vectors(single: TextEncoder, double: ParallelTextEncoder) -> None:
    assert single.encode([]).shape == double.encode([]).shape == (0, single.dim)


def test_two_processes_give_the_bits_of_one(single: TextEncoder, double: ParallelTextEncoder) -> None:
    """In a second call with other batches too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for budget in (100, 37):
            assert torch.equal(
                double.encode(TEXTS, dim=8, tokens_per_batch=budget),
                single.encode(TEXTS, dim=8, tokens_per_batch=budget),
            )
    finally:
        torch.set_num_threads(threads)
    assert len(multiprocessing.active_children()) >= 2  # else one of them had done it all


def test_more_processes_than_gpus_are_refused(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="num_processes=2: there are 1 GPUs"):
        ParallelTextEncoder(str(tiny_qwen3), num_processes=2, device="cuda")
