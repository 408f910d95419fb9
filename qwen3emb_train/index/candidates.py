"""The fast part of the exact search: documents among which the best must be, found by products that are a little off.

How far off they can be is known (``_error``), so a query whose candidates may lack one of its best is known, too.
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

GROUP = 16  # columns that are known by their maximum: most need no closer look
DECIMALS = 12  # of scores that count as equal
_QUERIES_AT_ONCE = 512  # of a thread: enough for fast products
_Buffers = SimpleQueue[Tensor]


def filter_types(query_type: torch.dtype, device: torch.device) -> list[torch.dtype]:
    """The types of the products that find candidates, the fastest first."""
    if query_type is torch.float64:
        return [torch.float64]
    filters = []
    # Not on GPUs: split sums may be added up in bfloat16 there.
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
    """Rows that hold the ``k`` best (-1: nobody), and for which queries that is certain. On the CPU.

    Every document is read once. No more scores are held than ``documents_at_once * queries_at_once``.

    Args:
        work_type: of the products; one of ``filter_types``.
    """
    spare = 16 + (k // 4 if work_type is torch.bfloat16 else 0)  # places beyond k
    wanted = min(total, k + spare)
    work = queries.to(device, work_type)
    if device.type == "cpu":
        share = max(1, min(queries_at_once, len(work)) // threads.number)
        queries_at_once = min(share, _QUERIES_AT_ONCE)
    parts = [_Best(part, wanted) for part in work.split(queries_at_once)]
    # One for each thread and all blocks: getting fresh memory every time would take as long as the products.
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
    """The best documents of some queries so far, in no order.

    Attributes:
        scores, rows: of the documents.
    """

    def __init__(self, queries: Float[Tensor, "queries dim"], wanted: int) -> None:
        self._queries, self._wanted = queries, wanted
        self.scores = queries.new_empty(len(queries), 0)
        self.rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)

    def add(self, block: Float[Tensor, "rows dim"], first: int, buffers: _Buffers) -> None:
        """More documents; ``first`` is the row of the first of them."""
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
    """How far a product in the type of ``work`` may be off from the inner product, for each query.

    Of ``q`` and ``d`` rounded to that type, which loses ``dq`` and ``dd``, the exact product is off by at most
    ``|dq| |d| + |q + dq| |dd|`` (Cauchy-Schwarz; the lengths of what was lost are measured). Its terms are summed in
    float32, in whatever order: that is off by at most ``gamma |q| |d|`` with ``gamma = dim u / (1 - dim u)``,
    ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Then the sum is rounded, too.

    Args:
        work: the queries, rounded.
        longest, most_lost: the longest document vector, and the most that one of them lost.
        products: the size of the product in question.
    """
    unit = torch.finfo(torch.promote_types(work.dtype, torch.float32)).eps / 2
    gamma = work.shape[1] * unit / (1 - work.shape[1] * unit)
    lengths, lost = queries.double().norm(dim=1), _lost(queries, work)
    error = lost * longest + (lengths + lost) * (most_lost + gamma * (longest + most_lost))
    error += torch.finfo(work.dtype).eps / 2 * products.abs()
    # The lengths are rounded as well, and so is a product somewhat larger; and scores so near count as equal.
    return 1.01 * error + 10.0**-DECIMALS


def _lost(vectors: Float[Tensor, "rows dim"], rounded: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
    """The length of what rounding took from each vector. On the CPU."""
    if torch.promote_types(vectors.dtype, rounded.dtype) is rounded.dtype:
        return torch.zeros(len(vectors), dtype=torch.float64)
    return (vectors - rounded.to(vectors)).norm(dim=1).double().cpu()


def _best_of_block(
    scores: Float[Tensor, "queries columns"], best: Float[Tensor, "queries wanted"] | None, wanted: int
) -> tuple[Float[Tensor, "queries found"], Int[Tensor, "queries found"]]:
    """Scores and columns of at least those of the ``wanted`` largest that belong among ``best``, in no order.

    Where a query has fewer than another, minus infinities fill up.

    Args:
        best: what earlier blocks gave; None while that is not ``wanted`` yet.
    """
    num_queries, num_columns = scores.shape
    if num_columns % GROUP or num_columns < wanted * GROUP or not num_queries:
        return scores.topk(min(wanted, num_columns), dim=1, sorted=False)
    grouped = scores.view(num_queries, GROUP, -1)  # group g: columns g, g + groups, g + 2 groups, ...
    highest = grouped.amax(dim=1)
    # ``wanted`` groups hold a score of at least the least of their maxima.
    floor = highest.topk(wanted, dim=1).values[:, -1] if best is None else best.amin(dim=1)
    query, group = (highest >= floor[:, None]).nonzero(as_tuple=True)
    members = grouped[query, :, group]
    hit, place = (members >= floor[query, None]).nonzero(as_tuple=True)
    counts = torch.bincount(query[hit], minlength=num_queries)
    most = int(counts.max())
    if most > num_columns // 4:  # such as documents in rising order
        return scores.topk(wanted, dim=1, sorted=False)
    position = torch.arange(len(hit), device=hit.device) - (counts.cumsum(0) - counts)[query[hit]]
    found = scores.new_full((num_queries, most), -math.inf)
    columns = torch.zeros(num_queries, most, dtype=torch.long, device=scores.device)
    found[query[hit], position] = members[hit, place]
    columns[query[hit], position] = place * grouped.shape[2] + group[hit]
    return found, columns
