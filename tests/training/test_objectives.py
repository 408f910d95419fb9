"""Two ranks equal one: loss and gradient of the global batch, with DDP's averaging and gradient caching."""

from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.training.objectives import EmbeddingObjective
from tests.ranks import run_on_ranks

TEXTS = [
    [5, 6, 7, 0],
    [9, 0],
    [8, 0],
    [30, 31, 0],
    [*range(10, 40), 0],
    [3, 4, 0],
    [12, 13, 14, 0],
    [16, 0],
    [17, 18, 0],
]
QUERIES, POSITIVES = [0, 1, 2, 3], [4, 5, 6, 5]  # rows 1 and 3 share a positive: the identity mask crosses ranks
NEGATIVES, OWNERS = [7, 8, 4], [0, 0, 3]  # row 0's positive is row 3's hard negative


def share(first: int, last: int) -> EmbeddingBatch:
    chosen = [(n, o - first) for n, o in zip(NEGATIVES, OWNERS, strict=True) if first <= o < last]
    index = lambda values: torch.tensor(values, dtype=torch.long)  # noqa: E731
    return EmbeddingBatch(
        texts=PackedTokens.from_lists(TEXTS),
        query_rows=index(QUERIES[first:last]),
        positive_rows=index(POSITIVES[first:last]),
        positive_owner=torch.arange(last - first),
        negative_rows=index([n for n, _ in chosen]),
        negative_owner=index([o for _, o in chosen]),
        identity=torch.arange(100, 100 + len(TEXTS)),
    )


def step(model: str, tokens_per_chunk: int, tokens_with_graph: int) -> tuple[float, torch.Tensor]:
    """One step's mean loss and the gradient that the optimizer would see."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    encoder = load_encoder(ModelConfig(path=model)).double()
    wrapped = accelerator.prepare_model(encoder)
    each = len(QUERIES) // world_size()
    objective = EmbeddingObjective(
        wrapped,
        InfoNCE(others_negatives=True, tile_elements=20),
        [32, 8],
        tokens_per_chunk,
        tokens_with_graph,
        no_sync=lambda: accelerator.no_sync(wrapped),
        backward_scalar=accelerator.backward,
    )
    metrics = objective.forward_backward(share(rank() * each, (rank() + 1) * each))
    return float(metrics["loss"]), torch.cat([p.grad.flatten() for p in encoder.parameters()])


def all_settings(model: str) -> list[tuple[float, torch.Tensor]]:
    return [step(model, *budget) for budget in ((1000, 0), (8, 0), (8, 12), (8, 1000))]


def test_two_ranks_give_the_loss_and_the_gradient_of_one(tiny_qwen3: Path) -> None:
    expected_loss, expected = step(str(tiny_qwen3), 1000, 0)
    for per_rank in zip(*run_on_ranks(all_settings, 2, str(tiny_qwen3)), strict=True):
        losses = [loss for loss, _ in per_rank]
        assert abs(sum(losses) / 2 - expected_loss) < 1e-9
        for _, gradient in per_rank:
            # The backbone's norms compute in float32, so other chunk shapes round differently.
            assert (gradient - expected).norm() / expected.norm() < 1e-6
