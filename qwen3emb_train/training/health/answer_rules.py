"""The rules of ``rules.py`` about a reranker's answers."""

from itertools import takewhile

from qwen3emb_train.training.health.rules import AlertRule, Recent


def one_class(run: Recent) -> str | None:
    share = run.now["health/relevant_share"]
    if share not in (0, 1):
        return None
    before = reversed(run.before.get("health/relevant_share", ()))
    documents = run.now["health/documents"] * (1 + sum(1 for _ in takewhile(lambda seen: seen == share, before)))
    # So many of one class are not chance: with one relevant document in two, and with one in about ten.
    if documents < (16 if share else 128):
        return None
    if share:
        return (
            "every document is labelled relevant: nothing teaches the model to say no. Add negatives (max_negatives, "
            "mine_negatives; about 8 for each relevant document)."
        )
    return "no document is labelled relevant: nothing teaches the model to say yes. Are the labels the wrong way round?"


def all_yes(run: Recent) -> str | None:
    # A model that has learned only the share of relevant labels answers with it: that is no_separation.
    limit = max(0.95, (1 + run.now["health/relevant_share"]) / 2)
    if _lowest(run) <= limit:
        return None
    return (
        f"the model says yes to everything: mean P(yes) is {_mean(run)}, while {_share(run)} are relevant. Likely "
        "there are too few negatives or the learning rate is too high. Give about 8 negatives for each relevant "
        "document, lower optimizer.lr, or try loss.answers=two_way; LoRA was stable where full fine-tuning was not."
    )


def all_no(run: Recent) -> str | None:
    limit = min(0.05, run.now["health/relevant_share"] / 2)
    if _highest(run) >= limit:
        return None
    return (
        f"the model says no to everything: mean P(yes) is {_mean(run)}, while {_share(run)} are relevant. Likely there "
        "are too many negatives or the learning rate is too high. Give about 8 negatives for each relevant document, "
        "raise loss.positive_weight, or lower optimizer.lr."
    )


def no_separation(run: Recent) -> str | None:
    # One batch's AUC is noisy, and diagnostics of an untrained model must not count for long.
    recent = [*run.before.get("health/auc", ())[-4:], run.now["health/auc"]]
    mean, noise = sum(recent) / len(recent), run.now["health/auc_noise"] / len(recent) ** 0.5
    if len(recent) < 3 or mean > 0.5 + max(0.02, noise):
        return None
    return (
        f"scores do not tell relevant documents from others: AUC {mean:.3f} over the last {len(recent)} diagnostics; "
        "0.5 is chance. The learning rate may be too low or too high, a prompt's end may be cut off, or queries and "
        "documents are out of step: read some rows."
    )


def _lowest(run: Recent) -> float:
    return min(run.now["health/relevant_probability"], run.now["health/other_probability"])


def _highest(run: Recent) -> float:
    return max(run.now["health/relevant_probability"], run.now["health/other_probability"])


def _mean(run: Recent) -> str:
    relevant, other = run.now["health/relevant_probability"], run.now["health/other_probability"]
    return f"{relevant:.3f} for relevant documents and {other:.3f} for others"


def _share(run: Recent) -> str:
    return f"{run.now['health/relevant_share']:.0%}"


_BOTH = ("health/relevant_share", "health/relevant_probability", "health/other_probability")

ANSWER_RULES = (
    AlertRule("one_class", ("health/relevant_share", "health/documents"), one_class, by_source=True, begins_after=1),
    AlertRule("all_yes", _BOTH, all_yes, settled=True),
    AlertRule("all_no", _BOTH, all_no, settled=True),
    AlertRule("no_separation", ("health/auc", "health/auc_noise"), no_separation, settled=True),
)
