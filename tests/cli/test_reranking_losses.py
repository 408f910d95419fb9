"""The reranking losses on the command line: ``reranking_loss=NAME`` fills ``loss``, and its keys are typed."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.arguments import ConfigError, Request
from qwen3emb_train.configuration.compose import compose
from qwen3emb_train.configuration.config_files import group_options
from qwen3emb_train.configuration.help import program_help
from qwen3emb_train.losses.list_wise import ListNet, RankNet
from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.losses.reranker_distillation import RerankerDistillation
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.losses.reranking_sum import RerankingSum


@dataclass
class Config:
    """As much of a reranker's training as the losses need."""

    loss: RerankingLoss = field(default_factory=PointWise)


PROGRAM = "defaults:\n  - train_reranker_schema\n  - reranking_loss: point_wise\n  - _self_\n"
PRESETS = {
    "point_wise": PointWise(),
    "two_way": PointWise(Answers.two_way),
    "rank_net": RankNet(),
    "list_net": ListNet(),
    "distillation": RerankerDistillation(),
    "weighted_sum": RerankingSum(reranker_distillation_weight=0.5),
}


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(PROGRAM)
    return tmp_path


def loss_of(recipes: Path, *overrides: str) -> RerankingLoss:
    program = replace(PROGRAMS["train_reranker"], schema=f"{__name__}:Config")
    config, _ = compose(program, Request(list(overrides), recipes, "mine"))
    return config.loss


def test_every_preset_is_here() -> None:
    assert set(group_options(PROGRAMS["train_reranker"])["reranking_loss"]) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_loss_with_the_codes_defaults(name: str, recipes: Path) -> None:
    assert loss_of(recipes, f"reranking_loss={name}") == PRESETS[name]


def test_keys_are_set_below_loss(recipes: Path) -> None:
    assert loss_of(recipes) == PointWise()
    assert loss_of(recipes, "reranking_loss=two_way", "loss.positive_weight=4") == PointWise(Answers.two_way, 4.0)
    mixed = loss_of(
        recipes, "reranking_loss=weighted_sum", "loss.rank_net.temperature=2", "loss.reranker_distillation.form=kl"
    )
    assert isinstance(mixed, RerankingSum)
    assert (mixed.rank_net.temperature, mixed.reranker_distillation.form.value) == (2.0, "kl")


def test_a_recipe_chooses_its_loss(recipes: Path) -> None:
    (recipes / "mine.yaml").write_text(PROGRAM.replace("reranking_loss: point_wise", "reranking_loss: rank_net"))
    assert loss_of(recipes) == RankNet()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.temprature=1", "temprature"),
        ("loss.answers=three_way", "full_vocabulary"),
        ("reranking_loss=bpr", "rank_net"),
        ("loss.positive_weight=0", "positive_weight=0.0"),
        ("loss=two_way", "reranking_loss=NAME"),
    ],
)
def test_a_bad_choice_is_refused(override: str, message: str, recipes: Path) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        loss_of(recipes, override)


def test_help_shows_the_keys_below_the_key_that_takes_them() -> None:
    """``loss.answers``, not ``reranking_loss.answers``: the group's name is only the choice's."""
    lines = program_help(PROGRAMS["train_reranker"]).splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith("loss, with reranking_loss=point_wise:"))
    (answers,) = (number for number, line in enumerate(lines) if line.startswith("  loss.answers=full_vocabulary "))
    assert 0 < answers - start < 6
    assert any(line.startswith("  loss.rank_net.temperature=1.0 ") or "loss.rank_net.KEY" in line for line in lines)
    assert not any(line.lstrip().startswith("reranking_loss.") for line in lines)
