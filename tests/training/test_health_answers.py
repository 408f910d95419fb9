"""Health of a reranker's answers: metrics against plain loops; every rule fires on its problem and on nothing else."""

import itertools
import math
from collections.abc import Callable
from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.training.health.alerts import Alerts
from qwen3emb_train.training.health.answer_rules import ANSWER_RULES
from qwen3emb_train.training.health.answers import (
    NUM_CALIBRATION_BINS,
    NUM_PROBABILITY_BINS,
    PROBABILITY_EDGES,
    answer_health,
    answer_metrics,
    calibration_table,
)


def make_documents(num_queries: int = 40, seed: int = 0, step: float = 0.5) -> tuple[Tensor, Targets]:
    """Ragged queries with 0 to 2 relevant documents; scores are multiples of ``step``, so some tie."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.arange(num_queries).repeat_interleave(1 + torch.arange(num_queries) % 5)
    labels = (torch.rand(len(query), generator=generator) < 0.3).float()
    scores = 2 * torch.randn(len(query), generator=generator) + 2 * labels - 1
    return (scores / step).round() * step, Targets(labels, query)


def by_loops(score: Tensor, targets: Targets) -> dict[str, float]:
    """The definitions, one document at a time."""
    p = [1 / (1 + math.exp(-s)) for s in score.tolist()]
    labels = targets.labels.tolist()
    documents = range(len(p))
    relevant, other = [i for i in documents if labels[i]], [i for i in documents if not labels[i]]
    wins = [float(score[i] > score[j]) + 0.5 * float(score[i] == score[j]) for i in relevant for j in other]
    mixed, first = 0, 0
    for number in set(targets.query.tolist()):
        own = [i for i in documents if targets.query[i] == number]
        rivals = [float(score[i]) for i in own if not labels[i]]
        mine = [float(score[i]) for i in own if labels[i]]
        if rivals and mine:
            mixed, first = mixed + 1, first + (max(mine) > max(rivals))
    gap = 0.0
    for i in range(NUM_CALIBRATION_BINS):
        inside = [d for d in documents if i <= p[d] * NUM_CALIBRATION_BINS < i + 1]
        gap += abs(sum(p[d] - labels[d] for d in inside))
    return {
        "health/documents": len(p),
        "health/relevant_share": len(relevant) / len(p),
        "health/yes_share": sum(s > 0 for s in score.tolist()) / len(p),
        "health/relevant_probability": sum(p[i] for i in relevant) / len(relevant),
        "health/other_probability": sum(p[i] for i in other) / len(other),
        "health/auc": sum(wins) / len(wins),
        "health/auc_noise": math.sqrt((len(p) + 1) / 12 / len(relevant) / len(other)),
        "health/best_is_relevant": first / mixed,
        "health/calibration_error": gap / len(p),
        "health/brier": sum((p[i] - labels[i]) ** 2 for i in documents) / len(p),
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_their_definitions(seed: int) -> None:
    score, targets = make_documents(seed=seed)
    metrics = answer_metrics(answer_health(score, targets))
    expected = by_loops(score, targets)
    for name, value in expected.items():
        assert metrics.pop(name) == pytest.approx(value, abs=1e-5), name
    assert set(metrics) == {"health/auc_error", "health/relevant_histogram", "health/other_histogram"}


def test_histograms_count_probabilities_by_class() -> None:
    score = torch.tensor([-100.0, -1.0, -1.0, 0.1, 1.0, 100.0])
    targets = Targets(torch.tensor([0.0, 0, 1, 1, 0, 1]), torch.arange(6))
    metrics = answer_metrics(answer_health(score, targets))
    expected = {"relevant": [0.0] * NUM_PROBABILITY_BINS, "other": [0.0] * NUM_PROBABILITY_BINS}
    for s, label in zip(score.tolist(), targets.labels.tolist(), strict=True):
        probability = 1 / (1 + math.exp(-s))
        bin_ = max(i for i in range(NUM_PROBABILITY_BINS) if PROBABILITY_EDGES[i] <= probability)
        expected["relevant" if label else "other"][bin_] += 1
    assert {name: metrics[f"health/{name}_histogram"] for name in expected} == expected


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0, 400.0])
def test_auc_is_within_its_error_at_any_scale_of_scores(scale: float) -> None:
    """Scores of a tiny model's first steps or of a huge one's logits; without ties."""
    score, targets = make_documents(num_queries=60, step=1e-6)
    metrics = answer_metrics(answer_health(scale * score, targets))
    error = abs(metrics["health/auc"] - by_loops(score, targets)["health/auc"])  # type: ignore[operator]
    assert error <= metrics["health/auc_error"] + 1e-6  # type: ignore[operator]
    assert metrics["health/auc_error"] < 0.01  # type: ignore[operator]


def test_auc_says_so_where_it_cannot_see() -> None:
    """All scores in one bin: half of all pairs at most, and half of all pairs is the error."""
    score, targets = make_documents()
    metrics = answer_metrics(answer_health(score * 1e-9 + 3.0, targets))
    assert (metrics["health/auc"], metrics["health/auc_error"]) == (0.5, 0.5)


def test_sums_of_ranks_and_batches_add_up() -> None:
    """Cut at a query's bounds; a part may lack a class, and its shapes are the same."""
    score, targets = make_documents()
    whole = answer_health(score, targets)
    parts = [
        answer_health(score[start:stop], targets.select(slice(start, stop)))
        for start, stop in itertools.pairwise([0, 1, 15, len(score)])
    ]
    assert all({n: v.shape for n, v in part.items()} == {n: v.shape for n, v in whole.items()} for part in parts)
    added = {name: torch.stack([part[name] for part in parts]).sum(0) for name in whole}
    torch.testing.assert_close(added, whole)
    for row, expected in zip(calibration_table(added), calibration_table(whole), strict=True):
        assert astuple(row) == pytest.approx(astuple(expected))


def test_the_calibration_table_holds_every_document_once() -> None:
    score, targets = make_documents()
    sums = answer_health(score, targets)
    table, metrics = calibration_table(sums), answer_metrics(sums)
    assert sum(row.documents for row in table) == len(score)
    assert all(row.lowest - 1e-6 <= row.probability <= row.highest + 1e-6 for row in table)
    error = sum(row.documents * abs(row.probability - row.relevant_share) for row in table) / len(score)
    assert error == pytest.approx(metrics["health/calibration_error"])
    assert sum(row.documents * row.relevant_share for row in table) == pytest.approx(float(targets.labels.sum()))


def test_of_what_there_is_nothing_nothing_is_said() -> None:
    score, targets = make_documents()
    for label, missing in ((1.0, "other"), (0.0, "relevant")):
        metrics = answer_metrics(answer_health(score, Targets(torch.full_like(score, label), targets.query)))
        assert not {"health/auc", "health/best_is_relevant", f"health/{missing}_probability"} & set(metrics)
        assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert answer_metrics(answer_health(score[:0], targets.select(slice(0, 0)))) == {}


# ---------------------------------------------------------------------------------------------------------------- rules

Features = Callable[[torch.Generator], tuple[Tensor, Targets]]


def features_of(relevant: int, others: int, signal: float) -> Features:
    """Batches of 8 queries; a document's 4 features know its label as far as ``signal`` goes."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Targets]:
        labels = torch.tensor([1.0] * relevant + [0.0] * others).repeat(8)
        features = torch.randn(len(labels), 4, generator=generator)
        features[:, 0] += signal * (labels - 0.5)
        return features, Targets(labels, torch.arange(8).repeat_interleave(relevant + others))

    return batch


def train(batch: Features, *, loss: PointWise | None = None, lr: float = 0.3, bias: float = 0.0) -> list[str]:
    """A linear yes/no model learns for 100 steps, looked at every fifth; what was said of its answers when."""
    loss = loss or PointWise(Answers.two_way)
    generator, monitor_alerts = torch.Generator().manual_seed(0), Alerts(steps=100)
    weight = torch.tensor([0.0, 0.0, 0.0, 0.0, bias], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=lr)
    said = []
    for step in range(1, 101):
        features, targets = batch(generator)
        yes = features @ weight[:4] + weight[4]
        value = loss.share(RerankerLogits(targets, yes, torch.zeros_like(yes)), loss.total_weights(targets)).sum()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step == 1 or step % 5 == 0:
            metrics = answer_metrics(answer_health(yes.detach(), targets))
            said += [f"{r.step} {r.name}" for r in monitor_alerts.see(step, metrics) if r.begins]
    return said


@pytest.mark.parametrize(("relevant", "others"), [(1, 1), (1, 8), (1, 30), (2, 6), (7, 1)])
@pytest.mark.parametrize("signal", [1.0, 3.0])
def test_a_healthy_training_is_met_with_silence(relevant: int, others: int, signal: float) -> None:
    """At every usual mixture, with labels that are hard or easy to tell, from a base that says yes to everything."""
    assert train(features_of(relevant, others, signal), bias=3.0, lr=1.0) == []


TROUBLED = {
    "every document labelled relevant": (features_of(2, 0, 1.0), {}, "1 one_class"),
    "no document labelled relevant": (features_of(0, 8, 1.0), {}, "5 one_class"),
    "far too much weight on yes": (features_of(1, 1, 0.5), {"loss": PointWise(Answers.two_way, 500.0)}, "all_yes"),
    "far too little weight on yes": (features_of(1, 1, 0.5), {"loss": PointWise(Answers.two_way, 0.002)}, "all_no"),
    "documents that say nothing": (features_of(1, 4, 0.0), {}, "no_separation"),
    "a base that says yes and a learning rate of 0": (features_of(1, 4, 1.0), {"lr": 0.0, "bias": 8.0}, "all_yes"),
}


@pytest.mark.parametrize("name", TROUBLED)
def test_a_troubled_training_is_told_what_ails_it(name: str) -> None:
    batch, settings, expected = TROUBLED[name]
    said = train(batch, **settings)  # type: ignore[arg-type]
    if "one_class" in expected:
        assert said == [expected], "at once"
    else:
        assert expected in {alert.split()[1] for alert in said}
        assert all(int(alert.split()[0]) > 20 for alert in said), "not before it has settled"


def test_every_rule_about_answers_is_provoked() -> None:
    provoked = {str(name).split()[-1] for _, _, expected in TROUBLED.values() for name in (expected,)}
    assert provoked == {rule.name for rule in ANSWER_RULES}


def said_of(metrics: dict[str, float], looks: int = 4) -> dict[str, str]:
    """What settled monitor_alerts say of metrics that stay as they are."""
    monitor_alerts = Alerts(steps=100)
    return {r.name: r.text for step in range(40, 40 + looks) for r in monitor_alerts.see(step, metrics)}


def answers(relevant: float, other: float, share: float = 0.1) -> dict[str, float]:
    return {
        "health/relevant_probability": relevant, "health/other_probability": other, "health/relevant_share": share,
        "health/documents": 64.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (answers(0.97, 0.96), {"all_yes"}),
        (answers(0.97, 0.94), set()),
        (answers(0.04, 0.01), {"all_no"}),
        (answers(0.06, 0.01), set()),
        (answers(0.97, 0.97, share=0.97), set()),
        (answers(0.995, 0.99, share=0.97), {"all_yes"}),
        (answers(0.03, 0.03, share=0.03), set()),
        (answers(0.01, 0.005, share=0.03), {"all_no"}),
    ],
)
def test_the_bounds_of_saying_one_thing(metrics: dict[str, float], expected: set[str]) -> None:
    """0.95 and 0.05, unless the labels' own mixture is beyond: who knows nothing else rightly answers with that."""
    assert set(said_of(metrics)) == expected


@pytest.mark.parametrize(
    ("auc", "noise", "expected"),
    [(0.51, 0.001, True), (0.53, 0.001, False), (0.56, 0.1, False), (0.54, 0.1, True), (0.2, 0.1, True)],
)
def test_separation_is_judged_by_several_looks(auc: float, noise: float, expected: bool) -> None:
    """Four looks halve the noise; a run that stands upside down does not separate either."""
    metrics = {"health/auc": auc, "health/auc_noise": noise}
    assert ("no_separation" in said_of(metrics)) == expected
    assert said_of(metrics, looks=3) == {}, "three looks make one judgement, and it takes two"


def test_one_lucky_look_is_no_separation() -> None:
    monitor_alerts = Alerts(steps=100)
    said = []
    for step, auc in enumerate([0.45, 0.55, 0.5, 0.58, 0.44, 0.5, 0.56], start=40):
        said += monitor_alerts.see(step, {"health/auc": auc, "health/auc_noise": 0.06})
    assert [(r.step, r.name, r.begins) for r in said] == [(43, "no_separation", True)]


@pytest.mark.parametrize(
    ("share", "documents", "first_look"), [(1.0, 16.0, 1), (1.0, 4.0, 4), (0.0, 128.0, 1), (0.0, 50.0, 3)]
)
def test_one_class_is_said_as_soon_as_it_is_no_accident(share: float, documents: float, first_look: int) -> None:
    monitor_alerts = Alerts(steps=100)
    metrics = {"health/relevant_share": share, "health/documents": documents}
    said = [alert for step in range(1, 9) for alert in monitor_alerts.see(step, metrics, source="mine")]
    assert [(alert.step, alert.name, alert.source) for alert in said] == [(first_look, "one_class", "mine")]
    mixed = {"health/relevant_share": 0.2, "health/documents": documents}
    ended = [alert for step in (9, 10) for alert in monitor_alerts.see(step, mixed, source="mine")]
    assert [alert.begins for alert in ended] == [False]


def test_a_mixed_batch_in_between_is_enough_not_to_be_one_class() -> None:
    monitor_alerts = Alerts(steps=100)
    for step, share in enumerate([1.0, 1.0, 0.9, 1.0, 1.0], start=1):
        assert monitor_alerts.see(step, {"health/relevant_share": share, "health/documents": 5.0}) == []


def test_alerts_name_figure_cause_and_remedy() -> None:
    every = {"health/relevant_share": 1.0, "health/documents": 64.0}
    assert (
        "nothing teaches the model to say no. Add negatives (max_negatives, mine_negatives;"
        in said_of(every)["one_class"]
    )
    assert "labels the wrong way round" in said_of(every | {"health/relevant_share": 0.0})["one_class"]
    yes = said_of(answers(0.99, 0.98))["all_yes"]
    assert "0.990 for relevant documents and 0.980 for others, while 10% are relevant" in yes
    assert "8 negatives" in yes
    assert "two_way" in yes
    assert "positive_weight" in said_of(answers(0.01, 0.0))["all_no"]
    assert "AUC 0.500 over the last" in said_of({"health/auc": 0.5, "health/auc_noise": 0.01})["no_separation"]
