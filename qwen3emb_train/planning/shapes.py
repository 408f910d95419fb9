"""What FSDP2 leaves of the configured model's true shapes on a rank, without memory."""

from copy import deepcopy

import torch

from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.planning.fake_ranks import fake_ranks
from qwen3emb_train.training.optimization import OptimizerConfig


def sharded_bytes(model: TextModel, num_ranks: int, num_replicas: int) -> int:
    """Bytes of weights on rank 0 after FSDP2 has sharded a model over fake ranks.

    Args:
        model: on the meta device.
        num_ranks: in all.
        num_replicas: copies of the weights; 1 = fully sharded.
    """
    from qwen3emb_train.training.engines.fsdp2 import FSDP2Engine

    with fake_ranks(num_ranks):
        engine = FSDP2Engine(deepcopy(model), OptimizerConfig(), Precision.fp32, torch.device("cpu"), num_replicas)
        local = [p.to_local() for p in engine.model.parameters()]  # type: ignore[attr-defined]
        return sum(tensor.numel() * tensor.element_size() for tensor in local)
