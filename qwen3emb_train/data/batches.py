"""What travels from data to models to losses: packed tokens, and rows that point into them.

A step's texts (queries, positives, hard negatives) lie end to end in one ``PackedTokens``, each distinct text once.
The rows of an ``EmbeddingBatch`` are indices into those texts, so a document that is one query's positive and
another's hard negative is encoded once and receives both gradients.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class PackedTokens:
    """Texts end to end, without padding.

    Attributes:
        input_ids: token ids of all texts, one after the other.
        cu_seqlens: where each text starts, and one closing entry: text ``i`` is
            ``input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]``. No text is empty.
        position_ids: 0, 1, 2, ... anew for every text.
    """

    input_ids: Int[Tensor, " tokens"]
    cu_seqlens: Int[Tensor, " texts_and_one"]
    position_ids: Int[Tensor, " tokens"]

    @property
    def num_texts(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> Int[Tensor, " texts"]:
        """Tokens of each text."""
        return self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    def select(self, texts: Int[Tensor, " chosen"]) -> "PackedTokens":
        """The chosen texts, in the given order, packed anew."""
        starts, lengths = self.cu_seqlens[:-1][texts], self.lengths[texts]
        return PackedTokens.gather(self.input_ids, starts, lengths)

    def to(self, device: torch.device | str) -> "PackedTokens":
        return PackedTokens(
            self.input_ids.to(device, non_blocking=True),
            self.cu_seqlens.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
        )

    @staticmethod
    def gather(
        input_ids: Int[Tensor, " source_tokens"],
        starts: Int[Tensor, " texts"],
        lengths: Int[Tensor, " texts"],
    ) -> "PackedTokens":
        """Packs the spans ``input_ids[start:start + length]``."""
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.long, device=lengths.device)
        torch.cumsum(lengths, 0, out=cu_seqlens[1:])
        num_tokens = int(cu_seqlens[-1])
        owner = torch.repeat_interleave(
            torch.arange(len(lengths), device=lengths.device), lengths, output_size=num_tokens
        )
        position_ids = torch.arange(num_tokens, device=lengths.device) - cu_seqlens[:-1][owner]
        return PackedTokens(input_ids[starts[owner] + position_ids], cu_seqlens, position_ids)

    @staticmethod
    def from_lists(texts: list[list[int]]) -> "PackedTokens":
        """Packs lists of token ids."""
        lengths = torch.tensor([len(ids) for ids in texts], dtype=torch.long)
        flat = torch.tensor([token for ids in texts for token in ids], dtype=torch.long)
        starts = lengths.cumsum(0) - lengths
        return PackedTokens.gather(flat, starts, lengths)


@dataclass(frozen=True)
class EmbeddingBatch:
    """The local share of one step.

    Attributes:
        texts: the distinct texts of this rank's rows.
        query_rows: text index of each query.
        positive_rows: text index of each positive; a query may own several.
        positive_owner: which query (0 .. queries-1, ascending) each positive belongs to.
        negative_rows: text index of each hard negative; queries may own none, or different numbers.
        negative_owner: which query (ascending) each hard negative belongs to.
        identity: a 63-bit hash of each text's characters: equal identity = equal text, on every rank.
        task: the task name shared by all rows of the step ("retrieval", "sts", ...).
        source: the name of the data source that the rows come from.
    """

    texts: PackedTokens
    query_rows: Int[Tensor, " queries"]
    positive_rows: Int[Tensor, " positives"]
    positive_owner: Int[Tensor, " positives"]
    negative_rows: Int[Tensor, " negatives"]
    negative_owner: Int[Tensor, " negatives"]
    identity: Int[Tensor, " texts"]
    task: str = "retrieval"
    source: str = ""
