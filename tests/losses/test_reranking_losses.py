"""Invariants of every reranking loss: it is its formula, however documents are cut; and it never breaks."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from qwen3emb_train.losses.list_wise import ListNet, RankNet
from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.losses.reranker_distillation import RerankerDistillation, TeacherForm
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.losses.reranking_sum import RerankingSum
from tests.losses import judged as plain
from tests.losses.judged import NO, YES, Judged, gradient, random_judged

FULL, TWO_WAY = Answers.full_vocabulary, Answers.two_way
KL, MSE, BCE = TeacherForm.kl, TeacherForm.mse, TeacherForm.bce

LOSSES: dict[str, tuple[RerankingLoss, plain.Reference]] = {
    "point wise": (PointWise(), plain.point_wise("full_vocabulary", 1.0, 0.0)),
    "point wise, weighted and smoothed": (PointWise(FULL, 4.0, 0.2), plain.point_wise("full_vocabulary", 4.0, 0.2)),
    "two way": (PointWise(TWO_WAY), plain.point_wise("two_way", 1.0, 0.0)),
    "two way, weighted and smoothed": (PointWise(TWO_WAY, 0.5, 0.1), plain.point_wise("two_way", 0.5, 0.1)),
    "rank net": (RankNet(), plain.rank_net(1.0)),
    "rank net, temperature 3": (RankNet(3.0), plain.rank_net(3.0)),
    "list net": (ListNet(), plain.list_net(1.0)),
    "list net, temperature 3": (ListNet(3.0), plain.list_net(3.0)),
    "teacher kl": (RerankerDistillation(KL), plain.reranker_distillation("kl", 1.0, 1.0)),
    "teacher kl, temperatures": (RerankerDistillation(KL, 2.0, 3.0), plain.reranker_distillation("kl", 2.0, 3.0)),
    "teacher mse": (RerankerDistillation(MSE, teacher_temperature=2.0), plain.reranker_distillation("mse", 1.0, 2.0)),
    "teacher bce": (RerankerDistillation(BCE, teacher_temperature=2.0), plain.reranker_distillation("bce", 1.0, 2.0)),
}
EVERY_LOSS: dict[str, RerankingLoss] = {name: loss for name, (loss, _) in LOSSES.items()}
EVERY_LOSS["sum"] = RerankingSum(
    point_wise_weight=2.0, reranker_distillation_weight=0.5, rank_net_weight=0.25, list_net_weight=3.0
)


def mean(loss: RerankingLoss, judged: Judged) -> Tensor:
    """The loss of a global batch of one chunk."""
    return loss.share(judged.reranker_logits(), loss.total_weights(judged.targets)).sum()


# --------------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([1, 6]), st.sampled_from([0.0, 0.4, 1.0]))
def test_equals_the_formula(name: str, seed: int, num_queries: int, most_documents: int, unscored: float) -> None:
    """Weighted sum, total weight and gradient, for ragged queries, single classes and scores missing anywhere."""
    loss, reference = LOSSES[name]
    judged = random_judged(seed, num_queries, most_documents=most_documents, unscored=unscored)
    expected, expected_total = reference(judged)
    (value,) = loss(judged.reranker_logits())
    (total,) = loss.total_weights(judged.targets)
    torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-9)
    assert float(total) == pytest.approx(expected_total)
    torch.testing.assert_close(gradient(value, judged), gradient(expected, judged), atol=1e-9, rtol=1e-9)


def test_the_cases_are_rich() -> None:
    """Guards the test above: its data hold queries of one class and of both, scored and not."""
    classes, scored = set(), set()
    for seed in range(20):
        judged = random_judged(seed, 5)
        assert judged.targets.scores is not None
        for documents in judged.queries():
            classes.add(frozenset(judged.targets.labels[documents].tolist()))
            scored.add(min(2, int((~judged.targets.scores[documents].isnan()).sum())))
    assert classes == {frozenset({0.0}), frozenset({1.0}), frozenset({0.0, 1.0})}
    assert scored == {0, 1, 2}


def test_full_vocabulary_is_cross_entropy_of_the_answers_token() -> None:
    """Eq. 2 as PyTorch has it, on the whole [documents, vocabulary] matrix."""
    judged = random_judged(0, 8)
    tokens = torch.where(judged.targets.labels > 0, YES, NO)
    expected = F.cross_entropy(judged.logits, tokens)
    torch.testing.assert_close(mean(PointWise(), judged), expected)
    torch.testing.assert_close(gradient(mean(PointWise(), judged), judged), gradient(expected, judged))


def test_two_way_is_binary_cross_entropy_of_the_score_and_blind_to_other_tokens() -> None:
    judged = random_judged(1, 8)
    score = judged.reranker_logits().score
    expected = F.binary_cross_entropy_with_logits(score, judged.targets.labels)
    value = mean(PointWise(TWO_WAY), judged)
    torch.testing.assert_close(value, expected)
    others = [token for token in range(plain.VOCABULARY) if token not in (YES, NO)]
    assert not gradient(value, judged)[:, others].any()
    assert gradient(mean(PointWise(), judged), judged)[:, others].all(), "Eq. 2 lowers every other token"


# --------------------------------------------------------------------------------------------- chunks, ranks, and parts


CUTS = [(name, False) for name in EVERY_LOSS]
CUTS += [(name, True) for name, loss in EVERY_LOSS.items() if not loss.needs_whole_queries]


@pytest.mark.parametrize(("name", "at_any_document"), CUTS)
def test_any_allowed_cut_gives_the_whole_batchs_loss_and_gradient(name: str, at_any_document: bool) -> None:
    """Ranks or chunks: weights are added up first, then shares. Within a query only where the loss says so."""
    loss, judged = EVERY_LOSS[name], random_judged(2, 7)
    cuts = [documents[0] for documents in judged.queries()]
    if at_any_document:
        cuts = list(range(len(judged.logits)))
    chunks = [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(judged.logits)], strict=True)]
    totals = torch.stack([loss.total_weights(judged.targets.select(chunk)) for chunk in chunks]).sum(0)
    torch.testing.assert_close(totals, loss.total_weights(judged.targets))
    shares = [loss.share(judged.reranker_logits(chunk), totals).sum() for chunk in chunks]
    whole = mean(loss, judged)
    assert float(whole.detach()) > 0.01
    torch.testing.assert_close(torch.stack(shares).sum(), whole)
    apart = torch.stack([gradient(share, judged) for share in shares]).sum(0)
    torch.testing.assert_close(apart, gradient(whole, judged))


@pytest.mark.parametrize("name", [name for name, loss in EVERY_LOSS.items() if loss.needs_whole_queries])
def test_a_loss_that_wants_whole_queries_needs_them(name: str) -> None:
    """Else the property would forbid chunks in vain."""
    loss, judged = EVERY_LOSS[name], random_judged(2, 7, unscored=0.0)
    halves = [slice(i, i + 1) for i in range(len(judged.logits))]
    apart = torch.stack([loss.total_weights(judged.targets.select(half)) for half in halves]).sum(0)
    assert not torch.equal(apart, loss.total_weights(judged.targets))


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_needs_tell_the_truth(name: str) -> None:
    """What is not asked for is not looked at; what is asked for is."""
    loss, judged = EVERY_LOSS[name], random_judged(3, 6)
    whole, targets = judged.reranker_logits(), judged.targets
    value = loss(whole).sum()
    assert whole.log_total is not None
    other_total = RerankerLogits(targets, whole.yes, whole.no, whole.log_total + 1.0)
    assert torch.equal(loss(other_total).sum(), value) == (not loss.needs_vocabulary)
    assert targets.scores is not None
    moved = Targets(targets.labels, targets.query, targets.scores * 0.5)
    other_scores = RerankerLogits(moved, whole.yes, whole.no, whole.log_total)
    assert torch.equal(loss(other_scores).sum(), value) == (not loss.needs_scores)
    if not loss.needs_vocabulary:
        assert torch.equal(loss(RerankerLogits(targets, whole.yes, whole.no)), loss(whole))


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_parts_weights_and_sums_agree(name: str) -> None:
    loss, judged = EVERY_LOSS[name], random_judged(4, 5)
    assert len(loss.parts) == len(set(loss.parts)) == len(loss.total_weights(judged.targets))
    assert len(loss.parts) == len(loss(judged.reranker_logits()))


def test_each_part_of_a_sum_is_divided_by_its_own_total() -> None:
    """Documents and queries are different units."""
    judged = random_judged(5, 6)
    loss = RerankingSum(point_wise_weight=2.0, reranker_distillation_weight=0.5, rank_net_weight=3.0)
    assert loss.parts == ("point_wise", "reranker_distillation", "rank_net")
    expected = (
        2.0 * mean(PointWise(), judged) + 0.5 * mean(RerankerDistillation(), judged) + 3.0 * mean(RankNet(), judged)
    )
    torch.testing.assert_close(mean(loss, judged), expected)


def test_what_weighs_nothing_asks_for_nothing() -> None:
    point_wise = RerankingSum()
    assert point_wise.parts == ("point_wise",)
    assert (point_wise.needs_vocabulary, point_wise.needs_whole_queries, point_wise.needs_scores) == (
        True,
        False,
        False,
    )
    distilled = RerankingSum(
        point_wise_weight=0.0, reranker_distillation=RerankerDistillation(KL), reranker_distillation_weight=1.0
    )
    assert (distilled.needs_vocabulary, distilled.needs_whole_queries, distilled.needs_scores) == (False, True, True)
    mean(point_wise, random_judged(6, 3, unscored=None))


# ------------------------------------------------------------------------------------------------------- the borderland


@pytest.mark.parametrize("name", EVERY_LOSS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype) -> None:
    loss, judged = EVERY_LOSS[name], random_judged(7, 8, dtype=dtype)
    with torch.no_grad():
        judged.logits.copy_(1e4 * judged.logits.sign())
    assert judged.reranker_logits().score.detach().abs().max() == 2e4
    value = mean(loss, judged)
    assert value.isfinite()
    assert gradient(value, judged).isfinite().all()


@pytest.mark.parametrize("name", EVERY_LOSS)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_nothing_to_learn_from_is_zero_with_a_graph(name: str, label: float) -> None:
    """One class and one score: only the point-wise part learns. Never NaN, always something to differentiate."""
    loss, judged = EVERY_LOSS[name], random_judged(8, 4)
    judged.targets.labels.fill_(label)
    assert judged.targets.scores is not None
    judged.targets.scores.fill_(math.nan)
    totals = loss.total_weights(judged.targets)
    shares = loss.share(judged.reranker_logits(), totals)
    for part, total, share in zip(loss.parts, totals, shares, strict=True):
        if part != "point_wise":
            assert float(total) == float(share.detach()) == 0.0
            assert not gradient(share, judged).any()


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if name != "sum"])
def test_a_rank_without_documents_contributes_zero(name: str) -> None:
    loss, judged = EVERY_LOSS[name], random_judged(9, 2)
    nothing = judged.reranker_logits(slice(0, 0))
    assert float(loss.total_weights(nothing.targets)) == 0.0
    value = loss(nothing).sum()
    assert float(value.detach()) == 0.0
    assert not gradient(value, judged).any()


def test_a_query_of_one_class_leaves_the_lists_alone() -> None:
    judged = random_judged(10, 6)
    mixed = [documents for documents in judged.queries() if len(set(judged.targets.labels[documents].tolist())) == 2]
    assert 0 < len(mixed) < 6
    for loss in (RankNet(), ListNet()):
        found = gradient(mean(loss, judged), judged).abs().sum(1)
        for documents in judged.queries():
            assert bool(found[documents].all()) == (documents in mixed)
        assert float(loss.total_weights(judged.targets)) == len(mixed)


def test_scores_carry_no_gradient_and_a_missing_one_pulls_nothing() -> None:
    judged = random_judged(11, 6)
    assert judged.targets.scores is not None
    missing = judged.targets.scores.isnan()
    teacher = judged.targets.scores.requires_grad_()
    for form in TeacherForm:
        value = mean(RerankerDistillation(form), judged)
        assert torch.autograd.grad(value, teacher, allow_unused=True, retain_graph=True)[0] is None
        assert not gradient(value, judged)[missing].any()


def test_agreement_with_the_teacher_is_where_distillation_rests() -> None:
    judged = random_judged(12, 6, unscored=0.0)
    teacher = judged.reranker_logits().score.detach()
    agreeing = Judged(judged.logits, Targets(judged.targets.labels, judged.targets.query, teacher))
    for form in TeacherForm:
        assert gradient(mean(RerankerDistillation(form), agreeing), judged).abs().max() < 1e-12
    shifted = Judged(judged.logits, Targets(judged.targets.labels, judged.targets.query, teacher + 5.0))
    assert gradient(mean(RerankerDistillation(KL), shifted), judged).abs().max() < 1e-12, "the teacher's bias"
    assert gradient(mean(RerankerDistillation(BCE), shifted), judged).abs().max() > 1e-3


def test_without_scores_it_says_what_to_do() -> None:
    judged = random_judged(13, 3, unscored=None)
    with pytest.raises(ValueError, match=r"'scores' field.*require_scores=false.*another loss"):
        RerankerDistillation().total_weights(judged.targets)
    loss = RerankerDistillation(require_scores=False)
    assert float(loss.total_weights(judged.targets)) == 0.0
    value = mean(loss, judged)
    assert float(value.detach()) == 0.0
    assert not gradient(value, judged).any()


# ------------------------------------------------------------------------------------------------------------- settings

BAD_SETTINGS = [
    (PointWise, {"positive_weight": 0.0}, "positive_weight=0.0"),
    (PointWise, {"positive_weight": math.inf}, "positive_weight=inf"),
    (PointWise, {"label_smoothing": 1.0}, "label_smoothing=1.0"),
    (PointWise, {"label_smoothing": -0.1}, "label_smoothing=-0.1"),
    (RankNet, {"temperature": 0.0}, "temperature=0.0 of RankNet"),
    (ListNet, {"temperature": math.nan}, "temperature=nan of ListNet"),
    (RerankerDistillation, {"temperature": 0.0}, "temperature=0.0"),
    (RerankerDistillation, {"teacher_temperature": -1.0}, "teacher_temperature=-1.0"),
    (RerankingSum, {"rank_net_weight": -1.0}, "rank_net_weight=-1.0"),
    (RerankingSum, {"point_wise_weight": 0.0}, "All weights of RerankingSum are 0"),
]


@pytest.mark.parametrize(("kind", "given_settings", "message"), BAD_SETTINGS, ids=[m for _, _, m in BAD_SETTINGS])
def test_a_bad_setting_is_named(kind: type, given_settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**given_settings)


@pytest.mark.parametrize("kind", [PointWise, RankNet, ListNet, RerankerDistillation, RerankingSum])
def test_a_loss_is_its_own_schema(kind: type) -> None:
    assert OmegaConf.to_object(OmegaConf.structured(kind)) == kind()
    assert {field.name for field in fields(kind)} == set(OmegaConf.structured(kind))
