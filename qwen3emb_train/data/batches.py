"""What data passes to models and losses: packed tokens, and rows that index them.

A step's texts (queries, positives, hard negatives) are concatenated in one ``PackedTokens``, each distinct text once.
The rows of an ``EmbeddingBatch`` are indices into those texts, so a document that is one query's positive and
another's hard negative is encoded once and receives both gradients.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Extents:
    """Sizes of packed texts as Python integers, which varlen kernels need.

    They are read on the CPU before the texts go to a device, where reading them would make the host wait.

    Attributes:
        longest_segment: tokens of the longest segment.
        longest_key: of the longest segment with its prefix.
        num_keys: of all segments with their prefixes.
    """

    longest_segment: int
    longest_key: int
    num_keys: int


@dataclass(frozen=True)
class PackedTokens:
    """Concatenated texts, without padding.

    Attributes:
        input_ids: token ids of all texts.
        cu_seqlens: offset of each text, and the total at the end: text ``i`` is
            ``input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``. No text is empty.
        position_ids: 0, 1, 2, ... within each text; after a shared prefix they continue from its length.
        prefix_of: where prefixes are shared (``data.prefixes``): the segments between ``cu_seqlens`` are first the
            prefixes, then the rest of each text, and this is each segment's prefix (-1: none). None: every segment is
            a whole text.
        num_prefixes: how many of the segments are prefixes.
        extents: where the texts have gone to a device.
    """

    input_ids: Int[Tensor, " tokens"]
    cu_seqlens: Int[Tensor, " segments_and_one"]
    position_ids: Int[Tensor, " tokens"]
    prefix_of: Int[Tensor, " segments"] | None = None
    num_prefixes: int = 0
    extents: Extents | None = None

    @property
    def num_texts(self) -> int:
        return len(self.cu_seqlens) - 1 - self.num_prefixes

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> Int[Tensor, " segments"]:
        """Tokens of each text (of each segment, where prefixes are shared)."""
        return self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    def select(self, texts: Int[Tensor, " chosen"]) -> "PackedTokens":
        """The chosen texts, in the given order, packed again."""
        assert self.prefix_of is None, "texts are selected first, then their prefixes shared"
        starts, lengths = self.cu_seqlens[:-1][texts], self.lengths[texts]
        return PackedTokens.gather(self.input_ids, starts, lengths)

    def to(self, device: torch.device | str) -> "PackedTokens":
        return PackedTokens(
            self.input_ids.to(device, non_blocking=True),
            self.cu_seqlens.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            None if self.prefix_of is None else self.prefix_of.to(device, non_blocking=True),
            self.num_prefixes,
            self._extents() if self.extents is None and torch.device(device).type != "cpu" else self.extents,
        )

    def _extents(self) -> Extents:
        own = self.lengths
        whole = own if self.prefix_of is None else own + torch.where(self.prefix_of >= 0, own[self.prefix_of], 0)
        return Extents(int(own.max()), int(whole.max()), int(whole.sum()))

    @staticmethod
    def gather(
        input_ids: Int[Tensor, " source_tokens"],
        starts: Int[Tensor, " texts"],
        lengths: Int[Tensor, " texts"],
    ) -> "PackedTokens":
        """Packs the spans ``input_ids[start:start + length]``.

        Args:
            input_ids: token ids to take from.
            starts, lengths: of each text.
        """
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.long, device=lengths.device)
        torch.cumsum(lengths, 0, out=cu_seqlens[1:])
        num_tokens = int(cu_seqlens[-1])
        text_idx = torch.repeat_interleave(
            torch.arange(len(lengths), device=lengths.device), lengths, output_size=num_tokens
        )
        position_ids = torch.arange(num_tokens, device=lengths.device) - cu_seqlens[:-1][text_idx]
        return PackedTokens(input_ids[starts[text_idx] + position_ids], cu_seqlens, position_ids)

    @staticmethod
    def from_lists(texts: list[list[int]]) -> "PackedTokens":
        """Packs lists of token ids."""
        lengths = torch.tensor([len(ids) for ids in texts], dtype=torch.long)
        flat = torch.tensor([token for ids in texts for token in ids], dtype=torch.long)
        starts = lengths.cumsum(0) - lengths
        return PackedTokens.gather(flat, starts, lengths)


@dataclass(frozen=True, eq=False)
class TextChunk:
    """Some of a batch's texts, encoded at once.

    Attributes:
        texts: indices into the batch's texts.
        tokens: of these texts, on the CPU; prefixes that they share may stand in it once.
    """

    texts: Int[Tensor, " chosen"]
    tokens: PackedTokens


@runtime_checkable
class TrainingBatch(Protocol):
    """What the training loop needs of a batch of either kind."""

    @property
    def texts(self) -> PackedTokens: ...
    @property
    def num_queries(self) -> int: ...
    @property
    def task(self) -> str: ...
    @property
    def source(self) -> str: ...

    def describe_rows(self, queries: Iterable[int], limit: int = 5) -> str:
        """Sources and rows of some queries, for messages: "nq row 17, nq row 23, ... (9 in all)"."""
        ...


@dataclass(frozen=True)
class EmbeddingBatch:
    """This rank's part of one step.

    Attributes:
        texts: the distinct texts of this rank's rows.
        query_idx: text index of each query.
        positive_idx: text index of each positive; a query may have several.
        positive_query_idx: which query (0 .. queries-1, ascending) each positive belongs to.
        negative_idx: text index of each hard negative; queries may have none, or different numbers.
        negative_query_idx: which query (ascending) each hard negative belongs to.
        text_hash: a 63-bit hash of each text: equal hash = equal text, on every rank.
        task: the task name shared by all rows of the step ("retrieval", "sts", ...).
        source: the name of the data source that the rows come from; "a+b" where a step mixes sources of one task.
        positive_scores, negative_scores: a teacher's (or, for STS, the annotators') score of each positive and hard
            negative; NaN where a row has none; None where no row of the step has any.
        source_names: the names that ``row_source`` indexes.
        row_source, row_number: source of each query, and its row there (counted from 0).
        chunks: the texts cut ahead of the step (``Objective.prepare``); empty: the step cuts them.
    """

    texts: PackedTokens
    query_idx: Int[Tensor, " queries"]
    positive_idx: Int[Tensor, " positives"]
    positive_query_idx: Int[Tensor, " positives"]
    negative_idx: Int[Tensor, " negatives"]
    negative_query_idx: Int[Tensor, " negatives"]
    text_hash: Int[Tensor, " texts"]
    task: str = "retrieval"
    source: str = ""
    positive_scores: Float[Tensor, " positives"] | None = None
    negative_scores: Float[Tensor, " negatives"] | None = None
    source_names: tuple[str, ...] = ()
    row_source: Int[Tensor, " queries"] | None = None
    row_number: Int[Tensor, " queries"] | None = None
    chunks: tuple[TextChunk, ...] = ()

    @property
    def num_queries(self) -> int:
        return len(self.query_idx)

    def describe_rows(self, queries: Iterable[int], limit: int = 5) -> str:
        """See ``TrainingBatch``."""
        return _describe_rows(self.source_names, self.row_source, self.row_number, list(queries), limit)


@dataclass(frozen=True)
class RerankingBatch:
    """This rank's part of one step of a reranker.

    Attributes:
        texts: the whole prompt of every document; those of a query are adjacent.
        query: which of this rank's queries (ascending) each document belongs to; a query may have none.
        labels: 1 for a relevant document, 0 for another.
        num_queries: of this rank.
        task, source, source_names, row_source, row_number, chunks: as in ``EmbeddingBatch``.
        scores: a teacher's score of each document; NaN where a row has none; None where no row of the step has any.
    """

    texts: PackedTokens
    query: Int[Tensor, " texts"]
    labels: Float[Tensor, " texts"]
    num_queries: int
    task: str = "reranking"
    source: str = ""
    scores: Float[Tensor, " texts"] | None = None
    source_names: tuple[str, ...] = ()
    row_source: Int[Tensor, " queries"] | None = None
    row_number: Int[Tensor, " queries"] | None = None
    chunks: tuple[TextChunk, ...] = ()

    def describe_rows(self, queries: Iterable[int], limit: int = 5) -> str:
        """See ``TrainingBatch``."""
        return _describe_rows(self.source_names, self.row_source, self.row_number, list(queries), limit)


def _describe_rows(
    names: tuple[str, ...], sources: Tensor | None, numbers: Tensor | None, queries: list[int], limit: int
) -> str:
    if sources is None or numbers is None:
        return f"{len(queries)} rows"
    rows = [f"{names[int(sources[q])]} row {int(numbers[q])}" for q in queries[:limit]]
    return ", ".join(rows) + (f", ... ({len(queries)} in all)" if len(queries) > limit else "")


def chunk_by_tokens(lengths: Int[Tensor, " texts"], tokens_per_chunk: int) -> list[Int[Tensor, " chosen"]]:
    """Groups texts of similar length, longest first, into chunks of at most ``tokens_per_chunk`` tokens.

    Longest first, so that a step that does not fit fails at its beginning. Similar lengths share a chunk, which keeps
    the dense grids of the CPU path nearly full. A text longer than the budget is a chunk of its own.

    Returns:
        Text indices of each chunk; every text occurs exactly once.

    Raises:
        ValueError: ``tokens_per_chunk`` is below 1.
    """
    if tokens_per_chunk < 1:
        raise ValueError(f"tokens_per_chunk is {tokens_per_chunk}; it must be at least 1 (a usual value is 4096).")
    order = torch.argsort(lengths, descending=True, stable=True)
    ends = lengths[order].cumsum(0).tolist()
    chunks: list[Tensor] = []
    first, used = 0, 0
    for position, end in enumerate(ends):
        if end - used > tokens_per_chunk and position > first:
            chunks.append(order[first:position])
            first, used = position, ends[position - 1]
    if first < len(order):
        chunks.append(order[first:])
    return chunks
