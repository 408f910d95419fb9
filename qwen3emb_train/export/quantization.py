"""Quantised vectors, int8 (1/4 of the bytes) and binary (1/32), and their loss of quality.

This quantises the *vectors* in an index, not the model. Queries stay float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int8

from qwen3emb_train.index.nearest import top_k_documents
from qwen3emb_train.index.vector_bytes import quantize_binary, restore_binary
from qwen3emb_train.models.text_model import truncate_and_normalize

_LEVELS = 127


@dataclass(frozen=True)
class Int8Quantizer:
    """Each component as a signed byte times a scale of its own.

    Attributes:
        scales: value of one step, for each component.
    """

    scales: Float32[np.ndarray, " dim"]

    @staticmethod
    def calibrate(vectors: Float32[np.ndarray, "texts dim"], quantile: float = 0.9995) -> "Int8Quantizer":
        """Scales from a sample of a corpus.

        A few outliers are clipped, so that other values keep their resolution.

        Args:
            vectors: the sample.
            quantile: of the magnitudes of each component; it becomes 127.

        Raises:
            ValueError: there are no vectors, or a component is zero in all of them.
        """
        if len(vectors) == 0:
            raise ValueError("no vectors to calibrate with: give some thousands of the corpus.")
        largest = np.quantile(np.abs(vectors), quantile, axis=0).astype(np.float32)
        if not (largest > 0).all():
            raise ValueError(
                f"component {int((largest <= 0).argmax())} is zero in every vector: is this a model's output?"
            )
        return Int8Quantizer(largest / _LEVELS)

    def quantize(self, vectors: Float32[np.ndarray, "texts dim"]) -> Int8[np.ndarray, "texts dim"]:
        return np.clip(np.round(vectors / self.scales), -_LEVELS, _LEVELS).astype(np.int8)

    def restore(self, codes: Int8[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
        return codes.astype(np.float32) * self.scales


@dataclass(frozen=True)
class QualityRow:
    """Quality of one way of storing vectors.

    Attributes:
        dim, storage: number of components, and their type.
        bytes_per_vector: storage size.
        mean_cosine: of a stored vector to the float32 one of the same dim.
        overlap: fraction of the first ``k`` documents of the float32 full-width ranking that are found.
        same_first: fraction of queries whose best document is the same.
    """

    dim: int
    storage: str
    bytes_per_vector: int
    mean_cosine: float
    overlap: float
    same_first: float


def quality_table(
    queries: Float32[np.ndarray, "queries dim"],
    documents: Float32[np.ndarray, "documents dim"],
    calibration: Float32[np.ndarray, "texts dim"],
    dims: Sequence[int] = (),
    k: int = 10,
) -> list[QualityRow]:
    """float32, int8 and binary documents at every Matryoshka dimension, against float32 at full width.

    Args:
        queries: L2-normalised; they stay float32.
        documents: L2-normalised; they are quantised.
        calibration: vectors for the int8 scales, preferably of other documents of the same corpus.
        dims: prefixes; empty: the full width only.
        k: number of documents of a ranking that are compared.
    """
    _, truth = top_k_documents(torch.from_numpy(queries), torch.from_numpy(documents), k)
    rows = []
    for dim in dims or [queries.shape[1]]:
        cut_queries, cut, cut_calibration = (_prefix(vectors, dim) for vectors in (queries, documents, calibration))
        int8 = Int8Quantizer.calibrate(cut_calibration)
        stored = {
            ("float32", 4 * dim): cut,
            ("int8", dim): int8.restore(int8.quantize(cut)),
            ("binary", (dim + 7) // 8): restore_binary(quantize_binary(cut), dim),
        }
        for (storage, size), restored in stored.items():
            _, found = top_k_documents(torch.from_numpy(cut_queries), torch.from_numpy(restored), k)
            cosine = (_unit(restored) * cut).sum(axis=1).mean()
            shared = [len({*a} & {*b}) / len(a) for a, b in zip(truth.tolist(), found.tolist(), strict=True)]
            first = (truth[:, 0] == found[:, 0]).double().mean().item()
            rows.append(QualityRow(dim, storage, size, float(cosine), float(np.mean(shared)), first))
    return rows


def format_quality(rows: Sequence[QualityRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| dimensions | stored as | bytes | mean cosine | overlap | same first |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.dim} | {row.storage} | {row.bytes_per_vector} | {row.mean_cosine:.4f} | {row.overlap:.4f} | "
        f"{row.same_first:.4f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _prefix(vectors: Float32[np.ndarray, "texts full"], dim: int) -> Float32[np.ndarray, "texts dim"]:
    cut: Float32[np.ndarray, "texts dim"] = truncate_and_normalize(torch.from_numpy(vectors), dim).numpy()
    return cut


def _unit(vectors: Float32[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
