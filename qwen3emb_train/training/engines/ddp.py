"""Data parallel: every rank holds the whole model, gradients are averaged once a step."""

import warnings
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.distributed import is_main_process
from qwen3emb_train.models.precision import Precision, autocast
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.training.engines.engine import Piece, WholeWeightsEngine


class DDPEngine(WholeWeightsEngine):
    """torch's DistributedDataParallel.

    Args:
        model, optimizer, precision, device: as in ``WholeWeightsEngine``; every rank has the same weights.
    """

    name = "ddp"

    def __init__(
        self, model: TextModel, optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device
    ) -> None:
        super().__init__(model, optimizer, precision, device)
        with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 knows only this name
            warnings.simplefilter("ignore", FutureWarning)
            # Buffers (rotary frequencies) are constants; and a rank may have more chunks, hence forwards, than another.
            self._wrapped = DistributedDataParallel(
                model,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,  # else its buckets hold the gradients a second time
            )

    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Float[Tensor, "texts dim"]:
        # DDP decides at the forward pass whether the backward pass exchanges.
        with nullcontext() if last else self._wrapped.no_sync(), autocast(self.precision, self.device):
            vectors: Tensor = self._wrapped(tokens)
        return vectors

    def backward(self, scalar: Tensor, *, last: bool = False) -> None:
        with nullcontext() if last else self._wrapped.no_sync():
            scalar.backward()

    def discard(self) -> None:
        super().discard()
        # After the first step DDP lays out its buckets anew: a collective, left to itself in the next forward pass with
        # graph. That is before the loss gathers where there is one chunk, after it where there are several: a deadlock.
        self._wrapped.reducer._rebuild_buckets()

    def optimizer_pieces(self) -> dict[str, Piece]:
        return super().optimizer_pieces() if is_main_process() else {}
