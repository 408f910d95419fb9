"""Diagnostics of a step's vectors: cosines of positives and negatives, use of the space, repeated texts.

``vector_health`` works on what the step has computed anyway. Everything it returns is a sum, so one all-reduce makes
the metrics of all ranks; ``vector_metrics`` turns the sums into metrics.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.distributed import world_size
from qwen3emb_train.losses import denominator, ragged
from qwen3emb_train.losses.embeddings import Embeddings, GatheredTexts, Pairs, normalized

ScalarMetrics = dict[str, float | list[float]]

NUM_BINS = 40
HISTOGRAM_EDGES = [-1 + 2 * i / NUM_BINS for i in range(NUM_BINS + 1)]
# Enough for two digits, few enough to stay far below a step's cost.
MAX_PAIRS = 1024
MAX_SPREAD_VECTORS = 256
_SCORES_AT_ONCE = 2**22


@torch.no_grad()
def vector_health(
    local: Embeddings,
    gathered: Embeddings | None = None,
    first_query: int = 0,
    *,
    false_negative_margin: float | None = None,
) -> dict[str, Tensor]:
    """Sums over this rank's (query, positive) pairs, at most ``MAX_PAIRS`` of them, evenly spaced.

    In-batch negatives are the documents of ``gathered`` (hard negatives too, where the loss had them gathered) except
    the query's own, texts that are a positive of the query, and positives of a query with the same text. A pair is in
    first place if it scores above all of these and above the query's own hard negatives.

    Args:
        local, gathered, first_query: as for an embedding loss; raw vectors. Without ``gathered``,
            ``local`` is the batch.
        false_negative_margin: the loss's; None where it has none.

    Returns:
        Tensors whose sum over ranks is meaningful, the same names and shapes on every rank. What is the same on every
        rank (the spread of the global batch's queries, its duplicates) is counted by ``ranks``.
    """
    everything = local if gathered is None else gathered
    unit, unit_gathered = normalized(local), normalized(everything)
    own_cosines = (unit.queries[unit.negative_query_idx] * unit.negatives).sum(-1)
    hardest_own = _hardest_own(unit, own_cosines)
    pairs = Pairs.of(unit, 0 if gathered is None else first_query)
    sampled = evenly_spaced(len(pairs.queries), MAX_PAIRS, pairs.queries.device)
    sums = _cosine_sums(
        pairs.select(sampled),
        GatheredTexts.of(unit_gathered, True),
        hardest_own[unit.positive_query_idx[sampled]],
        false_negative_margin,
    )
    sums |= {
        "own_negative_histogram": histogram(own_cosines),
        "own_negatives": _count(own_cosines),
        "own_negative_cosine": own_cosines.sum(),
    }
    norms = torch.cat([local.queries, local.positives, local.negatives]).float().norm(dim=-1)
    sums |= {"norms": _count(norms), "norm": norms.sum(), "squared_norm": norms.square().sum()}
    sums |= {"ranks": norms.new_ones(())} | _spread(unit_gathered.queries)
    sums |= {
        "duplicate_queries": duplicate_share(everything.query_hash),
        "duplicate_positives": duplicate_share(everything.positive_hash),
    }
    return {name: value.float().to(norms.device) for name, value in sums.items()}


def sum_over_ranks(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds up tensors by name in one all-reduce. Collective; the names and shapes are the same on every rank."""
    if world_size() == 1 or not sums:
        return dict(sums)
    names = sorted(sums)
    flat = torch.cat([sums[name].flatten() for name in names])
    dist.all_reduce(flat)
    parts = flat.split([sums[name].numel() for name in names])
    return {name: part.view_as(sums[name]) for name, part in zip(names, parts, strict=True)}


def vector_metrics(sums: Mapping[str, Tensor]) -> ScalarMetrics:
    """Metrics from ``vector_health``'s sums (of one or all ranks); those without any value are left out.

    ``health/alignment`` and ``health/uniformity`` are Wang and Isola's (2020, arXiv 2005.10242; alpha = 2, t = 2),
    ``health/effective_rank`` is Roy and Vetterli's (2007) over at most ``MAX_SPREAD_VECTORS`` queries of the batch,
    whose possible largest value is ``health/largest_rank``. Histograms have ``NUM_BINS`` equal bins over [-1, 1].
    """
    value: dict[str, Any] = {name: tensor.tolist() for name, tensor in sums.items()}
    metrics: ScalarMetrics = {}

    def add_mean(name: str, total: str, count: str) -> None:
        if value[count] > 0:
            metrics[f"health/{name}"] = value[total] / value[count]

    add_mean("positive_cosine", "positive_cosine", "pairs")
    add_mean("hardest_cosine", "hardest_cosine", "pairs_with_negatives")
    add_mean("negative_cosine", "negative_cosine", "negatives")
    add_mean("own_negative_cosine", "own_negative_cosine", "own_negatives")
    add_mean("accuracy_at_1", "first_places", "pairs_with_rivals")
    add_mean("hardest_masked_share", "hardest_masked", "pairs_under_margin")
    for name in (
        "effective_rank", "largest_rank", "uniformity", "query_cosine", "duplicate_queries", "duplicate_positives"
    ):  # fmt: skip
        add_mean(name, name, "ranks")
    if value["pairs"]:
        metrics["health/alignment"] = 2 - 2 * value["positive_cosine"] / value["pairs"]
    norm = value["norm"] / value["norms"]
    metrics["health/norm"] = norm
    metrics["health/norm_std"] = max(value["squared_norm"] / value["norms"] - norm**2, 0.0) ** 0.5
    for name in ("positive", "hardest", "own_negative"):
        if any(value[f"{name}_histogram"]):
            metrics[f"health/{name}_histogram"] = value[f"{name}_histogram"]
    return metrics


def histogram(cosines: Float[Tensor, " values"]) -> Float[Tensor, " bins"]:
    """Counts in ``NUM_BINS`` equal bins over [-1, 1]; what rounding put outside counts in the outermost."""
    bins = ((cosines + 1) * (NUM_BINS / 2)).long().clamp(0, NUM_BINS - 1)
    return torch.bincount(bins, minlength=NUM_BINS).float()


def effective_rank(vectors: Float[Tensor, "vectors dim"]) -> Float[Tensor, ""]:
    """exp(entropy of the singular values' shares) (Roy and Vetterli 2007): 1 for parallel vectors, at most the rank."""
    wide = vectors if len(vectors) <= vectors.shape[1] else vectors.T
    # Their squares are the eigenvalues of the small Gram matrix. In float64: the root turns an error of 1e-7 into 3e-4.
    wide = wide.double()
    singular = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def duplicate_share(hashes: Int[Tensor, " texts"]) -> Float[Tensor, ""]:
    """The share of texts that repeat another one."""
    return 1 - len(hashes.unique()) / _count(hashes).clamp(min=1)


def evenly_spaced(count: int, at_most: int, device: torch.device) -> Int[Tensor, " chosen"]:
    """Indices of some rows, spread over all: a batch may be ordered by length.

    Args:
        count: number of rows.
        at_most: number of indices.
        device: of the result.
    """
    chosen = min(count, at_most)
    return torch.arange(chosen, device=device) * count // max(chosen, 1)


def _hardest_own(local: Embeddings, cosines: Float[Tensor, " negatives"]) -> Float[Tensor, " queries"]:
    """The highest cosine of each query's own hard negatives that are not a positive of it by text; -inf without any."""
    positives = local.positive_hash[ragged.slots(local.positive_query_idx, len(local.queries))]
    is_false = (positives[local.negative_query_idx] == local.negative_hash[:, None]).any(1)
    floor = cosines.new_full((len(local.queries),), -torch.inf)
    return ragged.segment_max(cosines.masked_fill(is_false, -torch.inf), local.negative_query_idx, floor)


def _cosine_sums(
    pairs: Pairs, gathered: GatheredTexts, hardest_own: Float[Tensor, " pairs"], margin: float | None
) -> dict[str, Tensor]:
    parts = []
    total = num_negatives = pairs.positive_cosine.new_zeros(())
    for block in pairs.split(max(1, _SCORES_AT_ONCE // len(gathered.documents))):
        cosines = block.queries @ gathered.documents.T
        excluded = denominator.own_documents(block, gathered) | denominator.known_positives(block, gathered)
        excluded |= denominator.positives_of_repeated_queries(block, gathered)
        parts.append(cosines.masked_fill(excluded, -torch.inf).amax(1))
        total = total + cosines.masked_fill(excluded, 0.0).sum()
        num_negatives = num_negatives + (~excluded).sum()
    hardest = torch.cat(parts)
    found = hardest > -torch.inf
    rival = torch.maximum(hardest, hardest_own)
    has_rival = rival > -torch.inf
    under_margin = found & (margin is not None)
    return {
        "positive_histogram": histogram(pairs.positive_cosine),
        "hardest_histogram": histogram(hardest[found]),
        "pairs": _count(pairs.positive_cosine),
        "positive_cosine": pairs.positive_cosine.sum(),
        "pairs_with_negatives": found.sum(),
        "hardest_cosine": hardest[found].sum(),
        "negatives": num_negatives,
        "negative_cosine": total,
        "pairs_with_rivals": has_rival.sum(),
        "first_places": (has_rival & (pairs.positive_cosine > rival)).sum(),
        "pairs_under_margin": under_margin.sum(),
        "hardest_masked": (under_margin & (hardest > pairs.positive_cosine + (margin or 0.0))).sum(),
    }


def _spread(queries: Float[Tensor, "queries dim"]) -> dict[str, Tensor]:
    """How the queries' unit vectors fill the space. On the CPU: they are few, and some accelerators lack float64."""
    vectors = queries[evenly_spaced(len(queries), MAX_SPREAD_VECTORS, queries.device)].cpu().double()
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    cosines = (vectors @ vectors.T)[first, second]
    squared_distance = 2 - 2 * cosines
    return {
        "effective_rank": effective_rank(vectors),
        "largest_rank": vectors.new_tensor(min(vectors.shape)),
        "uniformity": (-2 * squared_distance).exp().mean().log(),
        "query_cosine": cosines.mean(),
    }


def _count(values: Tensor) -> Tensor:
    return torch.tensor(float(len(values)), device=values.device)
