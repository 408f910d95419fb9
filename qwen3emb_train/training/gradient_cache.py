"""Gradient caching (Gao et al. 2021, arXiv 2101.06983) by token budget: memory of a few chunks, gradient of the batch.

1. Encode every chunk; keep the graphs of as many as the budget allows, only the vectors of the others.
2. The caller computes the loss on all vectors and hands back its gradient with respect to each.
3. Replay each graph-less chunk with its random state restored and push its share of the gradient through; last, push
   the rest through the kept graphs.

Every parameter receives the sum of all chunks' contributions, exactly as from one big graph.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.chunking import chunk_by_tokens

Encode = Callable[[PackedTokens], Tensor]
NoSync = Callable[[], AbstractContextManager[None]]


@dataclass(eq=False)  # tensors have no truth value
class _Chunk:
    texts: Tensor  # indices into the batch's texts
    tokens: PackedTokens
    vectors: Tensor | None = None  # with graph, where it is kept
    random_state: "_RandomState | None" = None  # where it is not


@dataclass
class GradientCache:
    """One step's chunks. Use once: ``encode``, then ``backward``.

    Attributes:
        encode_chunk: tokens -> vectors, e.g. the (DDP-wrapped) encoder under autocast.
        no_sync: context in which a backward pass does not exchange gradients between ranks (DDP's ``no_sync``).
        tokens_per_chunk: token budget of a chunk.
        tokens_with_graph: chunks of up to so many tokens in all keep their graph instead of being replayed.
        backward: how a scalar is back-propagated (accelerate's, so that wrappers see it).
    """

    encode_chunk: Encode
    tokens_per_chunk: int
    tokens_with_graph: int = 0
    no_sync: NoSync = nullcontext
    backward_scalar: Callable[[Tensor], None] = torch.Tensor.backward
    _chunks: list[_Chunk] = field(default_factory=list)

    def encode(self, texts: PackedTokens) -> Float[Tensor, "texts dim"]:
        """Vectors of all texts, detached from the encoder, requiring gradient."""
        chosen = chunk_by_tokens(texts.lengths, self.tokens_per_chunk)
        self._chunks = [_Chunk(indices, texts.select(indices)) for indices in chosen]
        kept = self._chunks_to_keep()
        vectors: Tensor | None = None
        for number, chunk in enumerate(self._chunks):
            if chunk in kept:
                # The one backward pass that exchanges gradients belongs to the last forward outside no_sync.
                is_last = len(kept) == len(self._chunks) == number + 1
                with nullcontext() if is_last else self.no_sync():
                    chunk.vectors = output = self.encode_chunk(chunk.tokens)
            else:
                chunk.random_state = _RandomState.now(texts.input_ids.device)
                with torch.no_grad():
                    output = self.encode_chunk(chunk.tokens)
            if vectors is None:
                vectors = output.new_zeros(texts.num_texts, output.shape[1])
            vectors[chunk.texts] = output.detach()
        if vectors is None:
            raise ValueError("A batch without texts cannot be encoded.")
        return vectors.requires_grad_()

    def backward(self, gradient: Float[Tensor, "texts dim"]) -> None:
        """Adds to the parameters' gradients, given d(loss)/d(vectors)."""
        kept = [chunk for chunk in self._chunks if chunk.vectors is not None]
        replayed = [chunk for chunk in self._chunks if chunk.vectors is None]
        if kept:
            # One pass over all kept graphs: each parameter's gradient is complete when it is announced.
            with self.no_sync() if replayed else nullcontext():
                self.backward_scalar(sum_of_products(kept, gradient))
        for chunk in kept:
            chunk.vectors = None
        for number, chunk in enumerate(replayed):
            is_last = number + 1 == len(replayed)
            assert chunk.random_state is not None
            with nullcontext() if is_last else self.no_sync(), chunk.random_state.restored():
                vectors = self.encode_chunk(chunk.tokens)
                # A scalar whose gradient with respect to the vectors is the cached one.
                self.backward_scalar((vectors * gradient[chunk.texts]).sum())
        self._chunks = []

    def _chunks_to_keep(self) -> list[_Chunk]:
        """As many of the last (shortest) chunks as ``tokens_with_graph`` allows; a lone chunk is always kept."""
        if len(self._chunks) == 1:
            return self._chunks
        kept: list[_Chunk] = []
        used = 0
        for chunk in reversed(self._chunks):
            used += chunk.tokens.num_tokens
            if used > self.tokens_with_graph:
                break
            kept.append(chunk)
        return kept


def sum_of_products(chunks: list[_Chunk], gradient: Float[Tensor, "texts dim"]) -> Float[Tensor, ""]:
    """The surrogate scalar of several chunks."""
    products = [(chunk.vectors * gradient[chunk.texts]).sum() for chunk in chunks if chunk.vectors is not None]
    return torch.stack(products).sum()


@dataclass(frozen=True)
class _RandomState:
    """The generators that dropout draws from, so that a replay draws the same masks."""

    cpu: Tensor
    device: torch.device
    cuda: Tensor | None

    @staticmethod
    def now(device: torch.device) -> "_RandomState":
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return _RandomState(torch.get_rng_state(), device, cuda)

    def restored(self) -> AbstractContextManager[None]:
        return _restored(self)


class _restored:  # noqa: N801 - reads as a statement
    def __init__(self, state: _RandomState) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.outside = _RandomState.now(self.state.device)
        _set(self.state)

    def __exit__(self, *_: object) -> None:
        _set(self.outside)


def _set(state: _RandomState) -> None:
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        torch.cuda.set_rng_state(state.cuda, state.device)
