"""Quantised vectors: exact where they must be, near where they may be, and a table that tells them apart."""

import numpy as np
import pytest

from qwen3emb_train.export.quantization import Int8Quantizer, format_quality, quality_table
from qwen3emb_train.index.vector_bytes import quantize_binary, restore_binary


def _unit(rows: int, dim: int, seed: int) -> np.ndarray:
    """Vectors with a decaying spectrum, as embeddings have."""
    values = np.random.default_rng(seed).normal(size=(rows, dim)) / np.sqrt(1 + np.arange(dim) / 8)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_int8_is_within_half_a_step_inside_the_calibrated_range() -> None:
    vectors = _unit(500, 64, 0)
    quantizer = Int8Quantizer.calibrate(vectors, quantile=1.0)
    codes = quantizer.quantize(vectors)
    assert codes.dtype == np.int8
    assert codes.max() == 127, "the largest value of a component is the last step"
    assert np.all(np.abs(quantizer.restore(codes) - vectors) <= quantizer.scales * 0.5001)


def test_outliers_are_clipped_and_do_not_wrap_around() -> None:
    vectors = _unit(500, 64, 0)
    quantizer = Int8Quantizer.calibrate(vectors)
    assert quantizer.quantize(vectors * 100).max() == 127
    assert quantizer.quantize(vectors * 100).min() == -127


@pytest.mark.parametrize("dim", [64, 60])
def test_binary_keeps_every_sign(dim: int) -> None:
    vectors = _unit(50, dim, 1)
    codes = quantize_binary(vectors)
    assert codes.shape == (50, 8)
    restored = restore_binary(codes, dim)
    assert np.array_equal(restored > 0, vectors > 0)
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1, rtol=1e-5)


def test_the_table_ranks_precisions_and_dimensions() -> None:
    documents, calibration = _unit(600, 64, 2), _unit(300, 64, 3)
    noise = np.random.default_rng(4).normal(scale=0.05, size=(100, 64)).astype(np.float32)
    queries = documents[:100] + noise
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = {(row.dim, row.storage): row for row in quality_table(queries, documents, calibration, [64, 32])}
    full = rows[64, "float32"]
    assert (full.overlap, full.same_first, full.bytes_per_vector) == (1.0, 1.0, 256)
    assert full.mean_cosine == pytest.approx(1, abs=1e-6)
    assert rows[64, "int8"].mean_cosine > 0.999
    assert rows[64, "int8"].overlap > 0.9
    assert rows[64, "int8"].bytes_per_vector == 64
    assert rows[64, "binary"].bytes_per_vector == 8
    for dim in (64, 32):
        assert rows[dim, "float32"].overlap > rows[dim, "int8"].overlap - 0.02 > rows[dim, "binary"].overlap
    assert rows[32, "float32"].overlap < 1
    assert "| 64 | int8 | 64 | 0." in format_quality(list(rows.values()))


def test_calibration_needs_vectors_that_say_something() -> None:
    with pytest.raises(ValueError, match="no vectors"):
        Int8Quantizer.calibrate(np.zeros((0, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="component 1 is zero"):
        Int8Quantizer.calibrate(np.array([[1, 0, 1]], dtype=np.float32))
