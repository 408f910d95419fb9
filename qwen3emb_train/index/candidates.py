"""The fast part of the exact search: candidates that include the best documents, found by low-precision products.

Their error is bounded (``_error``), so queries whose candidates may lack one of the best are known.
"""

import math
from itertools import repeat
from queue import SimpleQueue

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qwen3emb_train.index.vector_rows import VectorRows, longest_length
from qwen3emb_train.index.workers import Workers
from qwen3emb_train.models.precision import Precision, resolve_precision

GROUP = 16  # columns first compared by their maximum: most can be skipped
DECIMALS = 12  # to which scores that count as equal agree
_QUERIES_AT_ONCE = 512  # per thread: enough for fast products
_Buffers = SimpleQueue[Tensor]


def filter_types(query_type: torch.dtype, device: torch.device) -> list[torch.dtype]:
    """The types of the products that find candidates, the fastest first."""
    if query_type is torch.float64:
        return [torch.float64]
    filters = []
    # Not on GPUs: partial sums may be added in bfloat16 there.
    if device.type == "cpu" and resolve_precision(Precision.auto, device) is Precision.bf16:
        filters.append(torch.bfloat16)
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    if backend.matmul.fp32_precision in ("none", "ieee"):  # else a float32 product is not one: TF32, bfloat16
        filters.append(torch.float32)
    return filters


def find_candidates(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    k: int,
    total: int,
    documents_at_once: int,
    queries_at_once: int,
    work_type: torch.dtype,
    device: torch.device,
    threads: Workers,
) -> tuple[Int[Tensor, "queries found"], Bool[Tensor, " queries"]]:
    """Rows that include the ``k`` best (-1: none), and for which queries that is certain. On the CPU.

    Every document is read once. At most ``documents_at_once * queries_at_once`` scores are in memory.

    Args:
        queries: vectors.
        documents: vectors, read block by block.
        k: documents per query.
        total: number of documents to search.
        documents_at_once, queries_at_once: size of a block of scores.
        work_type: of the products; one of ``filter_types``.
        device: where products are computed.
        threads: that share the work.
    """
    spare = 16 + (k // 4 if work_type is torch.bfloat16 else 0)  # candidates beyond k
    wanted = min(total, k + spare)
    work = queries.to(device, work_type)
    if device.type == "cpu":
        share = max(1, min(queries_at_once, len(work)) // threads.number)
        queries_at_once = min(share, _QUERIES_AT_ONCE)
    parts = [_Best(part, wanted) for part in work.split(queries_at_once)]
    # One per thread, for all blocks: allocating memory every time would take as long as the products.
    buffers: _Buffers = SimpleQueue()
    for _ in range(threads.number):
        buffers.put(work.new_empty(min(queries_at_once, len(work)) * min(documents_at_once, total)))

    def read(span: range) -> tuple[Float[Tensor, "rows dim"], float, float]:
        vectors = documents.rows(span.start, span.stop)
        rounded = vectors.to(work)
        return rounded, longest_length(vectors, "documents", span.start), float(_lost(vectors, rounded).max())

    longest = most_lost = 0.0
    for first in range(0, total, documents_at_once):
        span = range(first, min(first + documents_at_once, total))
        step = -(-len(span) // threads.number)
        read_pieces = threads.run(read, (span[i : i + step] for i in range(0, len(span), step)))
        pieces, lengths, losses = zip(*read_pieces, strict=True)
        longest, most_lost = max(longest, *lengths), max(most_lost, *losses)
        threads.run(_Best.add, parts, repeat(torch.cat(pieces)), repeat(first), repeat(buffers))
    scores, rows = (torch.cat([getattr(part, name) for part in parts]) for name in ("scores", "rows"))
    scores, order = scores.sort(dim=1, descending=True)
    found, scores = rows.gather(1, order).cpu(), scores.cpu().double()
    kth = scores[:, k - 1]
    floor = kth - 2 * _error(queries, work.cpu(), longest, most_lost, kth)
    is_certain = scores[:, -1] < floor if wanted < total else torch.ones(len(work), dtype=torch.bool)
    return found.masked_fill_(scores < floor[:, None], -1), is_certain


class _Best:
    """The best documents of some queries so far, unordered.

    Attributes:
        scores, rows: of the documents.
    """

    def __init__(self, queries: Float[Tensor, "queries dim"], wanted: int) -> None:
        self._queries, self._wanted = queries, wanted
        self.scores = queries.new_empty(len(queries), 0)
        self.rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)

    def add(self, block: Float[Tensor, "rows dim"], first: int, buffers: _Buffers) -> None:
        """Adds documents.

        Args:
            block: their vectors.
            first: the row of the first of them.
            buffers: memory for the products.
        """
        buffer = buffers.get()
        try:
            products = buffer[: len(self._queries) * len(block)].view(len(self._queries), len(block))
            torch.mm(self._queries, block.T, out=products)
            is_full = self.scores.shape[1] == self._wanted
            found, columns = _best_of_block(products, self.scores if is_full else None, self._wanted)
        finally:
            buffers.put(buffer)
        scores = torch.cat([self.scores, found], dim=1)
        self.scores, chosen = scores.topk(min(self._wanted, scores.shape[1]), dim=1, sorted=False)
        self.rows = torch.cat([self.rows, columns + first], dim=1).gather(1, chosen)


def _error(
    queries: Float[Tensor, "queries dim"],
    work: Float[Tensor, "queries dim"],
    longest: float,
    most_lost: float,
    products: Float[Tensor, " queries"],
) -> Float[Tensor, " queries"]:
    """Bound of the error of a product in the dtype of ``work``, for each query.

    With ``q`` and ``d`` rounded to that dtype, with rounding errors ``dq`` and ``dd``, the exact product is off by at
    most ``|dq| |d| + |q + dq| |dd|`` (Cauchy-Schwarz; the norms of the errors are measured). Its terms are summed in
    float32, in any order: that is off by at most ``gamma |q| |d|`` with ``gamma = dim u / (1 - dim u)``,
    ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Then the sum is rounded too.

    Args:
        queries: exact.
        work: rounded.
        longest, most_lost: the largest norm of a document, and of a document's rounding error.
        products: magnitude of the products.
    """
    unit = torch.finfo(torch.promote_types(work.dtype, torch.float32)).eps / 2
    gamma = work.shape[1] * unit / (1 - work.shape[1] * unit)
    lengths, lost = queries.double().norm(dim=1), _lost(queries, work)
    error = lost * longest + (lengths + lost) * (most_lost + gamma * (longest + most_lost))
    error += torch.finfo(work.dtype).eps / 2 * products.abs()
    # The norms are rounded too, and a product may be slightly larger; and scores this close count as equal.
    return 1.01 * error + 10.0**-DECIMALS


def _lost(vectors: Float[Tensor, "rows dim"], rounded: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
    """The norm of each vector's rounding error. On the CPU."""
    if torch.promote_types(vectors.dtype, rounded.dtype) is rounded.dtype:
        return torch.zeros(len(vectors), dtype=torch.float64)
    return (vectors - rounded.to(vectors)).norm(dim=1).double().cpu()


def _best_of_block(
    scores: Float[Tensor, "queries columns"], best: Float[Tensor, "queries wanted"] | None, wanted: int
) -> tuple[Float[Tensor, "queries found"], Int[Tensor, "queries found"]]:
    """Scores and columns of at least those of the ``wanted`` largest that belong among ``best``, unordered.

    Where a query has fewer than others, the rest are minus infinity.

    Args:
        scores: of the block.
        best: of earlier blocks; None while there are fewer than ``wanted``.
        wanted: scores to find.
    """
    num_queries, num_columns = scores.shape
    if num_columns % GROUP or num_columns < wanted * GROUP or not num_queries:
        return scores.topk(min(wanted, num_columns), dim=1, sorted=False)
    grouped = scores.view(num_queries, GROUP, -1)  # group g: columns g, g + groups, g + 2 groups, ...
    highest = grouped.amax(dim=1)
    # At least ``wanted`` scores reach the lowest of the ``wanted`` largest group maxima.
    floor = highest.topk(wanted, dim=1).values[:, -1] if best is None else best.amin(dim=1)
    query, group = (highest >= floor[:, None]).nonzero(as_tuple=True)
    members = grouped[query, :, group]
    hit, place = (members >= floor[query, None]).nonzero(as_tuple=True)
    counts = torch.bincount(query[hit], minlength=num_queries)
    most = int(counts.max())
    if most > num_columns // 4:  # such as documents in ascending order of score
        return scores.topk(wanted, dim=1, sorted=False)
    position = torch.arange(len(hit), device=hit.device) - (counts.cumsum(0) - counts)[query[hit]]
    found = scores.new_full((num_queries, most), -math.inf)
    columns = torch.zeros(num_queries, most, dtype=torch.long, device=scores.device)
    found[query[hit], position] = members[hit, place]
    columns[query[hit], position] = place * grouped.shape[2] + group[hit]
    return found, columns
