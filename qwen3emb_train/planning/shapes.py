"""The configured model's true shapes without memory: what a graph saves, and what FSDP2 leaves on a rank."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from qwen3emb_train.models.grids import Grid, Grids
from qwen3emb_train.models.packing import PackedLayout
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.planning.activations import Arithmetic, ChunkShape
from qwen3emb_train.planning.fake_ranks import fake_ranks
from qwen3emb_train.training.optimization import OptimizerConfig


def traced_activations(backbone: nn.Module, chunk: ChunkShape, num_texts: int, arithmetic: Arithmetic) -> int:
    """Bytes of the distinct tensors that a forward pass saves for its backward pass, without allocating them.

    Args:
        backbone: on the meta device, and unchanged.
        chunk: its ``cells`` must be a multiple of ``num_texts``.
        num_texts: texts of the chunk.
        arithmetic: dtypes.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that no other storage gets its address
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        dtype = torch.float32 if arithmetic.autocast or not arithmetic.bf16 else torch.bfloat16
        own = {
            name: torch.empty(value.shape, dtype=dtype).requires_grad_(value.requires_grad)
            for name, value in [*backbone.named_parameters(), *backbone.named_buffers()]
        }
        ids = torch.zeros(1, chunk.tokens, dtype=torch.long)
        longest, cells = chunk.cells // num_texts, torch.zeros(chunk.tokens, dtype=torch.long)
        lengths = torch.zeros(num_texts, dtype=torch.long)
        grid = Grid(num_texts, longest, longest, cells, cells, not chunk.is_spread, None, lengths)
        layout = PackedLayout(None, shapes=Grids((grid,)))
        arguments = {"input_ids": ids, "position_ids": ids.clone(), "attention_mask": None, "use_cache": False}
        enabled = arithmetic.bf16 and arithmetic.autocast
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=enabled),
        ):
            torch.func.functional_call(backbone, own, (), {**arguments, "layout": layout})
    del mode
    weights = {value.untyped_storage()._cdata for value in own.values()}
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)


def sharded_bytes(backbone: nn.Module, num_ranks: int, num_replicas: int) -> int:
    """Bytes of weights on rank 0 after FSDP2 has sharded a model over fake ranks.

    Args:
        backbone: on the meta device.
        num_ranks: in all.
        num_replicas: copies of the weights; 1 = fully sharded.
    """
    from qwen3emb_train.training.engines.fsdp2 import FSDP2Engine

    with fake_ranks(num_ranks):
        engine = FSDP2Engine(
            Encoder(deepcopy(backbone)), OptimizerConfig(), Precision.fp32, torch.device("cpu"), num_replicas
        )
        local = [p.to_local() for p in engine.model.parameters()]  # type: ignore[attr-defined]
        return sum(tensor.numel() * tensor.element_size() for tensor in local)
