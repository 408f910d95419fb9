"""One rule for each problem that shows in a run's metrics, with the metric, the likely cause and a remedy.

A rule reads the metrics of a step and returns a message or None. Thresholds are meant to give no alert on a healthy
run: each problem here costs the whole run, while a small one shows in the metrics anyway.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Recent:
    """What a rule may read.

    Attributes:
        now: the step's metrics that are finite, and ``non_finite``: 1 if the loss is not, or the update was left out.
        before: by metric, its values at the steps before, oldest first, as far as they are kept.
        first: by metric, the run's first values; empty for a run that was resumed.
        clipped_at: the norm above which gradients are clipped; infinity = never.
    """

    now: Mapping[str, float]
    before: Mapping[str, Sequence[float]]
    first: Mapping[str, Sequence[float]]
    clipped_at: float = math.inf


@dataclass(frozen=True)
class AlertRule:
    """One problem.

    Attributes:
        name: identifier.
        needs: the metrics without which it is not judged; ``x/`` means any metric with this prefix.
        judge: a sentence while the problem lasts, None while there is none.
        by_source: judged for each data source apart.
        ranked: is about positives ranking above negatives: not judged where rows are graded or labelled.
        settled: not judged in a run's first steps, when all vectors of a base model may be similar.
        begins_after, ends_after: so many judgements in a row.
    """

    name: str
    needs: tuple[str, ...]
    judge: Callable[[Recent], str | None]
    by_source: bool = False
    ranked: bool = False
    settled: bool = False
    begins_after: int = 2
    ends_after: int = 2


def non_finite(run: Recent) -> str | None:
    if not run.now["non_finite"]:
        return None
    return (
        "the loss or a gradient is NaN or infinite. No such update is applied; lower optimizer.lr, or check the rows "
        "that the metrics name."
    )


def lr_zero(run: Recent) -> str | None:
    if run.now["lr"] != 0:
        return None
    return "the learning rate is 0: nothing is learned. Check optimizer.lr and the schedule (min_lr_ratio, steps)."


def nothing_learned(run: Recent) -> str | None:
    share = run.now["weights/moved_share"]
    if run.now["weights/steps_watched"] < 3 or share >= 0.001:
        return None
    return (
        f"{share:.1%} of the watched weights have moved in {run.now['weights/steps_watched']:.0f} steps "
        f"(lr {run.now.get('lr', math.nan):.1e}, gradient norm {run.now.get('grad_norm', math.nan):.1e}): nothing is "
        "learned. Is the learning rate 0, or is what is trained without effect on the vectors?"
    )


def few_weights_move(run: Recent) -> str | None:
    share = run.now["weights/moved_share"]
    if run.now["weights/steps_watched"] < 10 or not 0.001 <= share < 0.4:
        return None
    return (
        f"only {share:.0%} of the watched weights have moved in {run.now['weights/steps_watched']:.0f} steps. Updates "
        "smaller than a weight's rounding are lost: are the weights bf16? Keep float32 master weights."
    )


def loss_flat(run: Recent) -> str | None:
    first, before = run.first.get("loss", ()), run.before.get("loss", ())
    if len(first) < 20 or len(before) < 100:
        return None
    start, end = median(first), median(before[-50:])
    if end < 0.98 * start or end < 0.05:
        return None
    return (
        f"the loss is where it began (median {start:.3f} at first, {end:.3f} lately). The learning rate is likely too "
        "low (or still in a long warm-up) or too high; or the pairs are noise: read some rows."
    )


def lora_without_effect(run: Recent) -> str | None:
    if run.now["weights/steps_watched"] < 3:
        return None
    if run.now.get("lora/scaling", 1.0) == 0:
        return (
            "LoRA's scaling alpha / rank is 0: the adapters do nothing. Set model.lora.alpha, e.g. to twice the rank."
        )
    relative = run.now.get("lora/relative_update", math.inf)
    if run.now.get("lora/b_set_share", 1.0) == 0 or relative < 1e-7:
        effect = "their B is still 0" if relative == math.inf else f"their update is {relative:.1e} of the base weights"
        return (
            f"the LoRA adapters do nothing: {effect}. The merged model would equal the base. Raise optimizer.lr (about "
            "1e-4 for LoRA) and check that gradients reach the adapters."
        )
    return None


def no_gradient(run: Recent) -> str | None:
    norms = {
        name.removeprefix("gradient_norm/"): run.now[name] for name in run.now if name.startswith("gradient_norm/")
    }
    silent = [group for group, norm in norms.items() if norm == 0]
    if not silent or run.now["grad_norm"] == 0:
        return None
    return (
        f"no gradient reaches: {', '.join(silent)}. Those weights are trained in name only: something multiplies "
        "them by 0, or the graph is cut before them."
    )


def collapse(run: Recent) -> str | None:
    cosine, rank = run.now["health/query_cosine"], run.now["health/effective_rank"]
    if cosine <= 0.99 and rank >= max(1.5, 0.02 * run.now["health/largest_rank"]):
        return None
    return (
        f"different queries have cosine {cosine:.3f} on average, and they fill {rank:.1f} of "
        f"{run.now['health/largest_rank']:.0f} directions. Likely the learning rate is too high or the queries are "
        "all alike. Start again from an earlier checkpoint with a lower optimizer.lr; read some queries."
    )


def mask_greedy(run: Recent) -> str | None:
    masked, hardest = run.now["masked_share"], run.now.get("health/hardest_masked_share", 0.0)
    if (masked <= 0.3 and hardest <= 0.5) or _repeated(run) > 0.2:
        return None
    return (
        f"the false-negative mask is greedy: it drops {masked:.0%} of all negatives and, for {hardest:.0%} of the "
        "queries, the hardest one. Raise loss.false_negative_margin, or check whether positives are weak."
    )


def few_negatives(run: Recent) -> str | None:
    left = run.now["effective_negatives"]
    if left >= 1:
        return None
    return (
        f"{left:.2f} negatives a query are left: the loss has nothing to push away. Use a larger batch_size, hard "
        "negatives, or in-batch terms."
    )


def negatives_easy(run: Recent) -> str | None:
    if not _is_solved(run) or run.now.get("temperature", 1.0) < 0.01:
        return None
    return (
        f"the negatives are too easy: positives lie {_gap(run):.2f} above the hardest one, loss {run.now['loss']:.4f}. "
        "There is little left to learn from these batches: mine hard negatives, raise batch_size, or stop here."
    )


def temperature_saturates(run: Recent) -> str | None:
    temperature = run.now["temperature"]
    if not _is_solved(run) or temperature >= 0.01:
        return None
    return (
        f"temperature {temperature:g} saturates the softmax: a lead of {_gap(run):.3f} in cosine takes all "
        f"probability, loss {run.now['loss']:.4f}. Raise loss.temperature (usual: 0.01 to 0.05)."
    )


def temperature_flattens(run: Recent) -> str | None:
    temperature, negatives = run.now["temperature"], run.now["effective_negatives"]
    # A lead of 1 in cosine over every negative is more than a good model reaches.
    least, untrained = math.log1p(negatives * math.exp(-1 / temperature)), math.log1p(negatives)
    if least < 0.5 * untrained or negatives < 1:
        return None
    return (
        f"temperature {temperature:g} flattens the softmax: with {negatives:.0f} negatives even a lead of 1 in cosine "
        f"leaves a loss of {least:.2f} of {untrained:.2f}. Lower loss.temperature (usual: 0.01 to 0.05)."
    )


def positives_below(run: Recent) -> str | None:
    positive = run.now["health/positive_cosine"]
    own, other = run.now.get("health/own_negative_cosine"), run.now.get("health/negative_cosine")
    if own is not None and positive < own:
        return (
            f"positives (cosine {positive:.2f}) lie below their own hard negatives ({own:.2f}). Are the two columns "
            "swapped, or the mined negatives better answers than the positives? Read some rows."
        )
    if other is not None and other < 0.99 and positive < other + 0.02:  # beyond, it is a collapse
        return (
            f"positives (cosine {positive:.2f}) lie no higher than random documents of the batch ({other:.2f}). "
            "Are queries and documents out of step? Read some rows."
        )
    return None


def duplicates(run: Recent) -> str | None:
    if _repeated(run) <= 0.2:
        return None
    queries, positives = run.now["health/duplicate_queries"], run.now["health/duplicate_positives"]
    return (
        f"{queries:.0%} of the batch's queries and {positives:.0%} of its positives repeat another one. Repeated texts "
        "are no negatives of each other: de-duplicate the data, or let the batches hold no repeats."
    )


def loss_spike(run: Recent) -> str | None:
    recent = run.before.get("loss", ())[-30:]
    if len(recent) < 20 or run.now["loss"] < max(2 * max(recent), median(recent) + 0.5):
        return None
    return (
        f"the loss jumped to {run.now['loss']:.3f} (before: {median(recent):.3f}, at most {max(recent):.3f}). One such "
        "batch is harmless; if it stays there, go back to the last checkpoint with a lower optimizer.lr."
    )


def gradient_explosion(run: Recent) -> str | None:
    recent, norm = run.before.get("grad_norm", ())[-30:], run.now["grad_norm"]
    if len(recent) < 20 or norm < 10 * max(recent) or norm < min(run.clipped_at, 1.0):
        return None
    return (
        f"the gradient norm jumped to {norm:.3g} (before: at most {max(recent):.3g}). Clipping bounds the damage; if "
        "it comes back, lower optimizer.lr or lengthen the warm-up."
    )


def always_clipped(run: Recent) -> str | None:
    norms = run.before.get("grad_norm", ())
    share = sum(norm > run.clipped_at for norm in norms) / max(len(norms), 1)
    if len(norms) < 100 or share < 0.95:
        return None
    return (
        f"{share:.0%} of the last {len(norms)} gradients were clipped (median norm {median(norms):.3g}, max_grad_norm "
        f"{run.clipped_at:g}): clipping has become the step size. AdamW mostly undoes that; still, raise max_grad_norm "
        "to about the median, so that it catches the exceptions."
    )


def _is_solved(run: Recent) -> bool:
    """The positive takes all probability, and not in one lucky batch."""
    recent = run.before.get("loss", ())[-20:]
    return len(recent) == 20 and median(recent) < 0.01 and run.now["health/accuracy_at_1"] > 0.99


def _repeated(run: Recent) -> float:
    return max(run.now.get("health/duplicate_queries", 0.0), run.now.get("health/duplicate_positives", 0.0))


def _gap(run: Recent) -> float:
    return run.now["health/positive_cosine"] - run.now["health/hardest_cosine"]


_RANKING = ("loss", "health/positive_cosine", "health/hardest_cosine", "health/accuracy_at_1")

RULES = (
    AlertRule("non_finite", ("non_finite",), non_finite, by_source=True, begins_after=1, ends_after=1),
    AlertRule("lr_zero", ("lr",), lr_zero, begins_after=3),
    AlertRule("nothing_learned", ("weights/moved_share",), nothing_learned, begins_after=1),
    AlertRule("few_weights_move", ("weights/moved_share",), few_weights_move),
    AlertRule("loss_flat", ("loss",), loss_flat, by_source=True, settled=True, begins_after=10, ends_after=10),
    AlertRule("lora_without_effect", ("lora/scaling", "weights/steps_watched"), lora_without_effect, begins_after=1),
    AlertRule("no_gradient", ("grad_norm", "gradient_norm/"), no_gradient),
    AlertRule(
        "collapse", ("health/query_cosine", "health/effective_rank", "health/largest_rank"), collapse, settled=True
    ),
    AlertRule("mask_greedy", ("masked_share",), mask_greedy, by_source=True, ranked=True, settled=True),
    AlertRule("few_negatives", ("effective_negatives",), few_negatives, by_source=True, ranked=True),
    AlertRule("negatives_easy", _RANKING, negatives_easy, by_source=True, ranked=True),
    AlertRule("temperature_saturates", ("temperature", *_RANKING), temperature_saturates, by_source=True, ranked=True),
    AlertRule("temperature_flattens", ("temperature", "effective_negatives"), temperature_flattens, ranked=True),
    AlertRule(
        "positives_below", ("health/positive_cosine",), positives_below, by_source=True, ranked=True, settled=True
    ),
    AlertRule(
        "duplicates",
        ("health/duplicate_queries", "health/duplicate_positives"),
        duplicates,
        by_source=True,
        ranked=True,
    ),
    AlertRule("loss_spike", ("loss",), loss_spike, by_source=True, begins_after=1, ends_after=10),
    AlertRule("gradient_explosion", ("grad_norm",), gradient_explosion, by_source=True, begins_after=1, ends_after=10),
    AlertRule("always_clipped", ("grad_norm",), always_clipped, begins_after=1, ends_after=20),
)
