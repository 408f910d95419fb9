"""Gradient caching (Gao et al. 2021, arXiv 2101.06983) by token budget: memory of a few chunks, gradient of the batch.

1. Encode every chunk; keep the graphs of as many as the budget allows, only the vectors of the others.
2. The caller computes the loss on all vectors and hands back its gradient with respect to each.
3. Push it through the kept graphs; then replay each graph-less chunk with its random state restored and push its share.

Every parameter receives the sum of all chunks' contributions, exactly as from one big graph, and ranks exchange
gradients once, in the last backward pass. Where a forward pass is itself a collective (sharded weights), ranks first
agree on the number of chunks.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens, TextChunk, chunk_by_tokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.distributed import gather_counts
from qwen3emb_train.training.engines.engine import Engine


@dataclass(eq=False)  # tensors have no truth value
class _Chunk:
    texts: Tensor  # indices into the batch's texts
    tokens: PackedTokens
    is_filler: bool = False  # encoded only because other ranks have more chunks: carries no gradient
    vectors: Tensor | None = None  # with graph, where it is kept
    random_state: "_RandomState | None" = None  # where it is not


@dataclass
class GradientCache:
    """One step's chunks. Use once: ``encode``, then ``backward``.

    Attributes:
        engine: runs the encoder.
        tokens_per_chunk: token budget of a chunk.
        retained_graph_tokens: chunks of up to so many tokens in all keep their graph instead of being replayed.
    """

    engine: Engine
    tokens_per_chunk: int
    retained_graph_tokens: int = 0
    _chunks: list[_Chunk] = field(default_factory=list)

    def encode(self, texts: PackedTokens, chunks: Sequence[TextChunk] = ()) -> Float[Tensor, "texts dim"]:
        """Vectors of all texts, on the device, detached from the encoder, requiring gradient.

        Args:
            texts: on the CPU.
            chunks: what ``cut`` gave for them ahead of the step; none: they are cut now, while the device waits.

        Raises:
            ValueError: the batch has no texts.
        """
        if texts.num_texts == 0:
            raise ValueError("A batch without texts cannot be encoded.")
        self._chunks = self._cut(texts, chunks)
        first_kept = len(self._chunks) - self._num_kept()
        vectors: Tensor | None = None
        for number, chunk in enumerate(self._chunks):
            if number >= first_kept:
                # Where nothing is replayed, the last of these forwards belongs to the one exchanging backward pass.
                last = first_kept == 0 and number + 1 == len(self._chunks)
                chunk.vectors = output = self.engine.forward(chunk.tokens, last=last)
            else:
                chunk.random_state = _RandomState.now(self.engine.device)
                with torch.no_grad():
                    output = self.engine.forward(chunk.tokens)
            if vectors is None:
                vectors = output.new_zeros(texts.num_texts, output.shape[1])
            if not chunk.is_filler:
                vectors[chunk.texts.to(output.device, non_blocking=True)] = output.detach()
        assert vectors is not None
        return vectors.requires_grad_()

    def backward(self, gradient: Float[Tensor, "texts dim"]) -> None:
        """Adds to the parameters' gradients, given d(loss)/d(vectors)."""
        kept = [chunk for chunk in self._chunks if chunk.vectors is not None]
        replayed = [chunk for chunk in self._chunks if chunk.vectors is None]
        if kept:
            # One pass over all kept graphs: each parameter's gradient is complete when it is announced.
            self.engine.backward(
                torch.stack([_surrogate(c, c.vectors, gradient) for c in kept]).sum(), last=not replayed
            )
        for chunk in kept:
            chunk.vectors = None
        for number, chunk in enumerate(replayed):
            last = number + 1 == len(replayed)
            assert chunk.random_state is not None
            with chunk.random_state.restored():
                vectors = self.engine.forward(chunk.tokens, last=last)
                self.engine.backward(_surrogate(chunk, vectors, gradient), last=last)
        self._chunks = []

    def _cut(self, texts: PackedTokens, cut_ahead: Sequence[TextChunk]) -> list[_Chunk]:
        shares, device = self.engine.model.shares_prefixes, self.engine.device
        chunks = list(cut_ahead) or cut(texts, self.tokens_per_chunk, share=shares)
        fillers: list[_Chunk] = []
        if self.engine.lockstep:
            wanted = max(gather_counts(len(chunks), device))
            whole = {id(chunk.texts): chunk for chunk in chunks}
            parts = split_to([chunk.texts for chunk in chunks], wanted)
            chunks = [whole.get(id(part)) or _chunk(texts, part, share=shares) for part in parts]
            shortest = texts.lengths.argmin().view(1)
            filler = texts.select(shortest).to(device)
            fillers = [_Chunk(shortest, filler, is_filler=True) for _ in range(wanted - len(chunks))]
        # The fillers first, so that the last chunks, whose graphs may be kept, are real ones.
        return fillers + [_Chunk(chunk.texts, chunk.tokens.to(device)) for chunk in chunks]

    def _num_kept(self) -> int:
        """As many of the last (shortest) chunks as ``retained_graph_tokens`` allows; a lone chunk is always kept."""
        if len(self._chunks) == 1:
            return 1
        used = num_kept = 0
        for chunk in reversed(self._chunks):
            used += chunk.tokens.num_tokens
            if used > self.retained_graph_tokens:
                break
            num_kept += 1
        # Forwards that are collectives must meet in the same order: all ranks keep what every rank can keep.
        return min(gather_counts(num_kept, self.engine.device)) if self.engine.lockstep else num_kept


def cut(texts: PackedTokens, tokens_per_chunk: int, *, share: bool) -> list[TextChunk]:
    """The chunks of a batch, on the CPU.

    Args:
        texts: of the batch.
        tokens_per_chunk: token budget of a chunk.
        share: whether a prefix that texts of a chunk share stands in it once.
    """
    return [_chunk(texts, chosen, share=share) for chosen in chunk_by_tokens(texts.lengths, tokens_per_chunk)]


def _chunk(texts: PackedTokens, chosen: Tensor, *, share: bool) -> TextChunk:
    tokens = texts.select(chosen)
    return TextChunk(chosen, share_prefixes(tokens) if share else tokens)


def split_to(chunks: list[Tensor], wanted: int) -> list[Tensor]:
    """Halves the chunks with most texts until there are ``wanted``, or every chunk is one text."""
    chunks = list(chunks)
    while len(chunks) < wanted:
        number = max(range(len(chunks)), key=lambda i: len(chunks[i]))
        if len(chunks[number]) == 1:
            break
        half = len(chunks[number]) // 2
        chunks[number : number + 1] = [chunks[number][:half], chunks[number][half:]]
    return chunks


def _surrogate(chunk: _Chunk, vectors: Tensor | None, gradient: Float[Tensor, "texts dim"]) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to the vectors is the cached one."""
    assert vectors is not None
    return (vectors * (0.0 if chunk.is_filler else gradient[chunk.texts.to(gradient.device, non_blocking=True)])).sum()


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
