"""Invariants of routing: each task has one loss, additions come where they make sense, and nothing is guessed."""

import pytest
import torch
from omegaconf import OmegaConf

from qwen3emb_train.losses.by_task import OWN_LOSS, TaskLosses, loss_of_task
from qwen3emb_train.losses.clustering import Clustering
from qwen3emb_train.losses.cosent import CoSENT
from qwen3emb_train.losses.distillation import Distillation, DistillationForm
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, matryoshka
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.label_contrast import LabelContrast
from qwen3emb_train.losses.spread_out import SpreadOut
from qwen3emb_train.losses.weighted_sum import WeightedSum
from tests.losses.rows import assert_same, embeddings_by_role, random_batch

RUN = InfoNCE(temperature=0.07)
EIGHT = random_batch(0, 8, most_positives=2, num_texts=30, dim=6, score_levels=4)


def test_a_loss_reports_the_settings_that_diagnostics_are_read_by() -> None:
    """A step of an own loss was reported with the main loss's temperature and margin."""
    losses = TaskLosses(spread_out_weight=0.3, distillation_weight=0.5)
    assert loss_of_task("retrieval", InfoNCE(temperature=0.03), losses).facts() == {
        "temperature": 0.03, "false_negative_margin": 0.1,
    }  # fmt: skip
    assert InfoNCE(false_negative_margin=None).facts() == {"temperature": 0.02}
    for task in ("sts", "clustering"):
        assert loss_of_task(task, InfoNCE(), losses).facts() == {"temperature": 0.05}
    assert losses.spread_out.facts() == {}


@pytest.mark.parametrize("task", ["retrieval", "bitext", "code", "unknown"])
def test_the_run_s_loss_is_used_as_it_is(task: str) -> None:
    assert loss_of_task(task, RUN, TaskLosses()) is RUN


def test_three_tasks_have_their_own() -> None:
    losses = TaskLosses(sts=CoSENT(0.1), classification=LabelContrast(0.2), clustering=Clustering(0.3))
    assert loss_of_task("sts", RUN, losses) is losses.sts
    assert loss_of_task("classification", RUN, losses) is losses.classification
    assert loss_of_task("clustering", RUN, losses) is losses.clustering


def test_a_task_can_be_given_to_the_run_s_loss() -> None:
    losses = TaskLosses(tasks_with_main_loss=["retrieval", "sts", "summarization"])
    assert loss_of_task("sts", RUN, losses) is RUN
    assert loss_of_task("summarization", RUN, losses) is RUN
    assert loss_of_task("clustering", RUN, losses) is losses.clustering


def test_an_unheard_of_task_is_refused_with_the_known_ones_and_the_remedy() -> None:
    expected = (
        r"'stss' has no loss\. Known: retrieval, bitext, code, unknown, sts, classification, clustering\. "
        r".*task_losses\.tasks_with_main_loss"
    )
    with pytest.raises(ValueError, match=expected):
        loss_of_task("stss", RUN, TaskLosses())


def test_distillation_joins_the_run_s_loss_only_and_never_sts() -> None:
    """STS scores are people's logits of similarity, which CoSENT uses; they are no teacher's logits."""
    losses = TaskLosses(distillation_weight=0.5, tasks_with_main_loss=["retrieval", "sts", "clustering"])
    assert loss_of_task("retrieval", RUN, losses) == WeightedSum(RUN, {"distillation": (0.5, losses.distillation)})
    assert loss_of_task("clustering", RUN, losses) == WeightedSum(RUN, {"distillation": (0.5, losses.distillation)})
    assert loss_of_task("sts", RUN, losses) is RUN
    assert loss_of_task("classification", RUN, losses) is losses.classification


@pytest.mark.parametrize("task", ["retrieval", *OWN_LOSS])
def test_spread_out_joins_every_task(task: str) -> None:
    plain = loss_of_task(task, RUN, TaskLosses())
    found = loss_of_task(task, RUN, TaskLosses(spread_out_weight=0.1))
    assert found == WeightedSum(plain, {"spread_out": (0.1, SpreadOut())})


def test_the_sum_is_the_weighted_sum_with_metrics_by_name() -> None:
    rows = embeddings_by_role(EIGHT)
    parts = {"distillation": (0.5, Distillation(DistillationForm.margin_mse)), "spread_out": (3.0, SpreadOut())}
    output = WeightedSum(RUN, {**parts})(rows)
    main, distillation, spread_out = RUN(rows), parts["distillation"][1](rows), SpreadOut()(rows)
    assert_same(output.loss, main.loss + 0.5 * distillation.loss + 3 * spread_out.loss, EIGHT)
    expected = main.metrics | {
        "main_loss": main.loss,
        "distillation_loss": distillation.loss,
        "distillation_scored_share": distillation.metrics["scored_share"],
        "spread_out_loss": spread_out.loss,
        "spread_out_mean_cosine": spread_out.metrics["mean_cosine"],
        "spread_out_mean_squared_cosine": spread_out.metrics["mean_squared_cosine"],
    }
    assert {name: value.item() for name, value in output.metrics.items()} == {
        name: value.item() for name, value in expected.items()
    }
    assert not any(value.requires_grad for value in output.metrics.values())


def test_a_sum_passes_ranks_on_and_needs_what_its_parts_need() -> None:
    local, gathered = embeddings_by_role(EIGHT[2:4]), embeddings_by_role(EIGHT)
    addition: dict[str, tuple[float, EmbeddingLoss]] = {"spread_out": (1.0, SpreadOut())}
    output = WeightedSum(Clustering(), addition)(local, gathered, 2)
    expected = Clustering()(local, gathered, 2).loss + SpreadOut()(local, gathered, 2).loss
    torch.testing.assert_close(output.loss, expected)
    own: dict[str, tuple[float, EmbeddingLoss]] = {"distillation": (1.0, Distillation())}
    assert not WeightedSum(LabelContrast(), own).needs_gathered
    assert WeightedSum(LabelContrast(), addition).needs_gathered
    assert WeightedSum(InfoNCE(gather_hard_negatives=True), own).needs_gathered_negatives
    assert not WeightedSum(InfoNCE(), own).needs_gathered_negatives
    assert WeightedSum(LabelContrast(), {"sts": (1.0, CoSENT())}).needs_gathered_negatives


@pytest.mark.parametrize("task", ["retrieval", *OWN_LOSS])
def test_matryoshka_works_over_every_task(task: str) -> None:
    """Every loss, with every addition: the weighted mean over the prefixes, rows against columns."""
    loss = loss_of_task(task, RUN, TaskLosses(distillation_weight=0.5, spread_out_weight=0.1))
    local, gathered = embeddings_by_role(EIGHT[4:]), embeddings_by_role(EIGHT)
    found = matryoshka(loss, local, gathered, [2, 6], [1.0, 3.0], first_query=4)
    parts = [loss(local.truncated(dim), gathered.truncated(dim), 4).loss for dim in (2, 6)]
    assert_same(found.loss, (parts[0] + 3 * parts[1]) / 4, EIGHT)
    assert not torch.equal(parts[0], parts[1])


def test_weights_are_checked() -> None:
    for key in ("distillation_weight", "spread_out_weight"):
        with pytest.raises(ValueError, match=f"task_losses.{key}=-1.0"):
            TaskLosses(**{key: -1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight of spread_out is 0"):
        WeightedSum(RUN, {"spread_out": (0.0, SpreadOut())})


def test_the_dataclass_is_its_own_schema() -> None:
    """As a field of a configuration: nested overrides reach the object, and its checks run."""
    schema = OmegaConf.structured(TaskLosses)
    given = OmegaConf.create(
        {
            "sts": {"temperature": 0.1},
            "distillation": {"form": "margin_mse"},
            "distillation_weight": 0.5,
            "tasks_with_main_loss": ["retrieval"],
        }
    )
    assert OmegaConf.to_object(OmegaConf.merge(schema, given)) == TaskLosses(
        tasks_with_main_loss=["retrieval"],
        sts=CoSENT(0.1),
        distillation=Distillation(DistillationForm.margin_mse),
        distillation_weight=0.5,
    )
    with pytest.raises(ValueError, match=r"temperature=0\.0 of CoSENT"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"sts": {"temperature": 0.0}}))
