"""Invariant of every loss: no [local x global] matrix exists, in forward or backward, and what is kept is linear."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3emb_train.losses.clustering import Clustering
from qwen3emb_train.losses.cosent import CoSENT
from qwen3emb_train.losses.distillation import Distillation, DistillationForm
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.label_contrast import LabelContrast
from qwen3emb_train.losses.spread_out import SpreadOut
from tests.losses.rows import embeddings_by_role, random_batch

TILE = 1024
LOSSES: dict[str, EmbeddingLoss] = {
    "infonce": InfoNCE(gather_hard_negatives=True, tile_elements=TILE),
    "infonce with hardness": InfoNCE(hardness_strength=5.0, tile_elements=TILE),
    "clustering": Clustering(tile_elements=TILE),
    "cosent": CoSENT(),
    "label contrast": LabelContrast(),
    "kl": Distillation(),
    "margin mse": Distillation(DistillationForm.margin_mse),
    "spread out": SpreadOut(),
}


class LargestTensor(TorchDispatchMode):
    """Notes the element count of the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def memory_of(loss: EmbeddingLoss, num_rows: int, num_columns: int) -> tuple[int, int]:
    """Elements of the largest tensor in forward and backward, and of all that the forward keeps for the backward.

    ``num_rows`` queries in the middle of ``num_columns``.
    """
    batch = random_batch(0, num_columns, most_negatives=1, dim=2, score_levels=9)
    first = (num_columns - num_rows) // 2
    local, gathered = embeddings_by_role(batch[first : first + num_rows]), embeddings_by_role(batch)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().size() // tensor.element_size()
        return tensor

    with LargestTensor() as seen:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(local, gathered, first).loss
        value.backward()
    return seen.largest, sum(kept.values())


@pytest.mark.parametrize("name", LOSSES)
def test_no_matrix_of_all_scores_exists_in_forward_or_backward(name: str) -> None:
    """64 queries of 128 are 8192 cells: nothing larger than an eighth of that is made, and less than that is kept."""
    largest, kept = memory_of(LOSSES[name], 64, 128)
    assert largest <= TILE
    assert kept < 64 * 128
    # Linear: twice the batch keeps twice as much; a matrix would keep 4 times as much.
    assert memory_of(LOSSES[name], 128, 256)[1] < 2.5 * kept


@pytest.mark.parametrize("loss", [InfoNCE(), Clustering()], ids=["infonce", "clustering"])
def test_with_one_tile_the_matrix_would_be_seen(loss: EmbeddingLoss) -> None:
    assert memory_of(loss, 32, 64)[0] >= 32 * 64


def test_a_tile_holds_all_terms_and_prefixes_together() -> None:
    """q-d and d-d share a tile: of 1920 elements 960 each, 30 rows of 32; on 3 prefixes of 7680 a sixth, 35 of 36."""
    batch = embeddings_by_role(random_batch(0, 64, most_negatives=0, dim=3))

    def tile(loss: InfoNCE, dims: list[int]) -> int:
        with LargestTensor() as seen:
            sum(output.loss for output in loss.on_prefixes(batch, None, dims)).backward()  # type: ignore[union-attr]
        return seen.largest

    assert tile(InfoNCE(tile_elements=1920), [3]) == 30 * 32
    assert tile(InfoNCE(tile_elements=1920, document_document=False), [3]) == 43 * 44
    assert tile(InfoNCE(tile_elements=7680), [1, 2, 3]) == 35 * 36


def test_on_a_cpu_a_tile_fits_into_its_cache() -> None:
    assert memory_of(InfoNCE(), 520, 520)[0] == 2**18
