"""Terms (3) to (5) of Eq. 1 (arXiv 2506.05176) in tiles, forward and backward, for several prefixes in one pass.

Dot products are sums over blocks of components, so those on the largest prefix contain all others: with dims
d_1 < d_2 < ... the products on d_2 are those on d_1 plus those of components d_1 .. d_2, and so on. Divided by the
norms of each prefix they are cosines.

Neither pass keeps the scores. Forward keeps for each pair the running log-sum-exp over the tiles (Milakov and
Gimelshein 2018, arXiv 1805.02867); backward recomputes each tile, and exp(logit - log_sum) is its softmax. Gradients of
vectors are accumulated in place: autograd would allocate, for each tile, one as large as all gathered texts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.denominator import Keys, have_same_key

_CELLS_IN_CACHE = 2**18  # 512 x 512: elementwise work on larger tiles leaves a core's cache


class Vectors(NamedTuple):
    """The vectors on one side of the score matrices.

    Attributes:
        values: of length 1.
        inverse_norms: 1 / norm of each prefix but the last, which is the whole vector.
    """

    values: Float[Tensor, "vectors dim"]
    inverse_norms: Float[Tensor, "vectors shorter"]

    @staticmethod
    def of(values: Float[Tensor, "vectors dim"], dims: Sequence[int]) -> "Vectors":
        norms = [values[:, :dim].norm(dim=1) for dim in dims[:-1]]
        return Vectors(values, torch.stack(norms, 1).clamp(min=1e-12).reciprocal() if norms else values[:, :0])


class Scores(NamedTuple):
    """One term's scores in one tile, on one prefix.

    Attributes:
        left: the range of their left vectors.
        prefix: its index, from the shortest.
        cosines: unmasked.
        excluded: which of them do not count.
        is_query_document: whether they are of term (5).
    """

    left: slice
    prefix: int
    cosines: Float[Tensor, "pairs texts"]
    excluded: Bool[Tensor, "pairs texts"]
    is_query_document: bool


@dataclass(frozen=True, eq=False)
class Tiles:
    """The matrices [pairs x queries] and [pairs x documents] in tiles, and which of their elements count.

    Left vectors are the local pairs' queries, then their positives; right vectors all queries, then all documents.

    Attributes:
        dims: prefix lengths, ascending; the last is that of the vectors.
        num_pairs, num_queries, num_documents: sizes.
        query_query, document_document, query_document: which terms are on.
        limit: above this cosine a negative counts as a false one.
        document_document_threshold: which cosine the limit applies to in term (4); see ``InfoNCE``.
        query_keys, document_keys: see ``masks.Keys``.
        temperature, hardness_strength: a cosine s has the logit s / temperature +
            hardness_strength * s; the second part carries no gradient.
        tile_elements: how many scores may be in memory at once.
    """

    dims: Sequence[int]
    num_pairs: int
    num_queries: int
    num_documents: int
    query_query: bool
    document_document: bool
    query_document: bool
    limit: Float[Tensor, "pairs prefixes"]
    document_document_threshold: str
    query_keys: Keys
    document_keys: Keys
    temperature: float
    hardness_strength: float
    tile_elements: int

    @property
    def slope(self) -> float:
        """The logit of cosine 1."""
        return 1 / self.temperature + self.hardness_strength

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Each tile's pairs and gathered texts, the latter either queries or documents."""
        most_at_once = len(self.dims) * max(1, self.query_document + self.document_document)
        cells = max(1, self.tile_elements // most_at_once)
        if self.limit.device.type == "cpu":
            cells = min(cells, _CELLS_IN_CACHE)
        num_texts = self.num_queries + self.num_documents
        height = min(self.num_pairs, max(math.isqrt(cells), cells // num_texts))
        width = cells // height
        ranges = [(0, self.num_queries)] if self.query_query else []
        if self.query_document or self.document_document:
            ranges.append((self.num_queries, num_texts))
        for first, last in ranges:
            for start in range(first, last, width):
                for pair in range(0, self.num_pairs, height):
                    yield slice(pair, min(pair + height, self.num_pairs)), slice(start, min(start + width, last))

    def scores(self, left: Vectors, right: Vectors, pairs: slice, texts: slice) -> Iterator[Scores]:
        """All scores of one tile, shorter prefixes first.

        Args:
            left, right: all vectors of each side.
            pairs, texts: the tile's ranges.
        """
        if texts.start < self.num_queries:
            same = have_same_key(self.query_keys, pairs, texts)
            for prefix, cosines in enumerate(_cosines(left, right, pairs, texts, self.dims)):
                yield Scores(pairs, prefix, cosines, same | self._above_limit(cosines, pairs, prefix), False)
            return
        same = have_same_key(
            self.document_keys, pairs, slice(texts.start - self.num_queries, texts.stop - self.num_queries)
        )
        positives = slice(self.num_pairs + pairs.start, self.num_pairs + pairs.stop)
        of_queries: Iterator[Tensor | None] = repeat(None)
        of_positives: Iterator[Tensor | None] = repeat(None)
        if self.query_document or self.document_document_threshold == "query_document":
            of_queries = _cosines(left, right, pairs, texts, self.dims)
        if self.document_document:
            of_positives = _cosines(left, right, positives, texts, self.dims)
        excluded = {"none": same}
        for prefix, of_query, of_positive in zip(range(len(self.dims)), of_queries, of_positives, strict=False):
            if of_query is not None:
                excluded["query_document"] = same | self._above_limit(of_query, pairs, prefix)
                if self.query_document:
                    yield Scores(pairs, prefix, of_query, excluded["query_document"], True)
            if of_positive is not None:
                excluded["document_document"] = same | self._above_limit(of_positive, pairs, prefix)
                yield Scores(positives, prefix, of_positive, excluded[self.document_document_threshold], False)

    def _above_limit(
        self, cosines: Float[Tensor, "pairs texts"], pairs: slice, prefix: int
    ) -> Bool[Tensor, "pairs texts"]:
        return cosines > self.limit[pairs, prefix, None]

    def logits(self, scores: Scores) -> Float[Tensor, "pairs texts"]:
        """-inf where a score does not count."""
        return torch.where(scores.excluded, -torch.inf, scores.cosines).mul_(self.slope)


def _cosines(
    left: Vectors, right: Vectors, rows: slice, texts: slice, dims: Sequence[int]
) -> Iterator[Float[Tensor, "pairs texts"]]:
    """Cosines on each prefix, the shortest first."""
    first, products = 0, None
    for prefix, dim in enumerate(dims):
        block = left.values[rows, first:dim], right.values[texts, first:dim].T
        products = torch.mm(*block) if products is None else products.addmm_(*block)
        if dim == dims[-1]:
            yield products
        else:
            yield (products * left.inverse_norms[rows, prefix, None]).mul_(right.inverse_norms[texts, prefix])
        first = dim


class TiledLogSum(torch.autograd.Function):
    """For each pair and prefix the log-sum-exp of the logits that count; ``ragged.floor_of`` if none does."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Float[Tensor, "lefts dim"],
        left_inverse_norms: Float[Tensor, "lefts shorter"],
        right: Float[Tensor, "texts dim"],
        right_inverse_norms: Float[Tensor, "texts shorter"],
        tiles: Tiles,
    ) -> tuple[Float[Tensor, "pairs prefixes"], Int[Tensor, "pairs prefixes"], Float[Tensor, "pairs prefixes"]]:
        """The log-sum-exps; how many scores are excluded; the largest query-document cosine that counts, or -inf.

        Args:
            ctx: autograd's context.
            left, left_inverse_norms: ``Vectors`` of the local pairs.
            right, right_inverse_norms: ``Vectors`` of the gathered texts.
            tiles: of both.
        """
        log_sum = torch.full_like(tiles.limit, -torch.inf)
        num_excluded = torch.zeros_like(tiles.limit, dtype=torch.long)
        hardest = torch.full_like(tiles.limit, -torch.inf)
        floor = ragged.floor_of(left.dtype)
        sides = Vectors(left, left_inverse_norms), Vectors(right, right_inverse_norms)
        for pairs, texts in tiles:
            for scores in tiles.scores(*sides, pairs, texts):
                at = pairs, scores.prefix
                logits = tiles.logits(scores)
                largest = logits.amax(1)
                if scores.is_query_document:
                    hardest[at] = hardest[at].maximum(largest / tiles.slope)
                largest = largest.clamp(min=floor)  # -inf - -inf would be NaN
                total = logits.sub_(largest[:, None]).exp_().sum(1)
                log_sum[at] = log_sum[at].logaddexp(total.log() + largest)
                num_excluded[at] += scores.excluded.sum(1, dtype=torch.int32)  # summing to int64 takes 5 times as long
        log_sum.clamp_(min=floor)
        ctx.save_for_backward(left, left_inverse_norms, right, right_inverse_norms, log_sum)
        ctx.tiles = tiles
        ctx.mark_non_differentiable(num_excluded, hardest)
        return log_sum, num_excluded, hardest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "pairs prefixes"], *_: Any) -> tuple[Tensor | None, ...]:
        left, left_inverse_norms, right, right_inverse_norms, log_sum = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        sides = Vectors(left, left_inverse_norms), Vectors(right, right_inverse_norms)
        of_left, of_right = (Vectors(*(torch.zeros_like(part) for part in side)) for side in sides)
        grad = grad / tiles.temperature
        last = len(tiles.dims) - 1
        with torch.autocast(left.device.type, enabled=False):
            for pairs, texts in tiles:
                by_side: dict[int, list[Tensor]] = {}
                for scores in tiles.scores(*sides, pairs, texts):
                    rows, prefix = scores.left, scores.prefix
                    at = pairs, prefix, None
                    of_cosines = tiles.logits(scores).sub_(log_sum[at]).exp_().mul_(grad[at])
                    if prefix < last:  # cosine = product * inverse norms
                        norms = left_inverse_norms[rows, prefix], right_inverse_norms[texts, prefix]
                        of_norms = of_cosines * scores.cosines
                        of_left.inverse_norms[rows, prefix] += of_norms.sum(1) / norms[0]
                        of_right.inverse_norms[texts, prefix] += of_norms.sum(0) / norms[1]
                        of_cosines.mul_(norms[0][:, None]).mul_(norms[1])
                    by_side.setdefault(rows.start, []).append(of_cosines)
                for start, of_products in by_side.items():
                    rows = slice(start, start + pairs.stop - pairs.start)
                    for prefix in range(last, -1, -1):  # a block of components is part of all longer prefixes
                        if prefix < last:
                            of_products[prefix] += of_products[prefix + 1]
                        block = slice(tiles.dims[prefix - 1] if prefix else 0, tiles.dims[prefix])
                        of_left.values[rows, block].addmm_(of_products[prefix], right[texts, block])
                        of_right.values[texts, block].addmm_(of_products[prefix].T, left[rows, block])
        return *of_left, *of_right, None
