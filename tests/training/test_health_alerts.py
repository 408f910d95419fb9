"""Alerts: every problem is provoked in a real short training, and healthy trainings are met with silence."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.training.health.alerts import Alerts
from qwen3emb_train.training.health.rules import RULES
from tests.training.health_setup import Row, train, usual_rows

WORDS = [
    "list", "file", "path", "date", "sort", "join", "open", "read", "write", "split", "time", "sum",
    "map", "zip", "key", "row", "col", "cell", "tree", "node", "edge", "leaf", "root", "heap",
]  # fmt: skip


def words(generator: random.Random, count: int = 4) -> str:
    return " ".join(generator.sample(WORDS, count))


def learnable_rows(_: Path) -> list[Row]:
    """So many that they are not learned by heart in a short run; every second one has a hard negative."""
    generator = random.Random(0)
    rows = []
    for i in range(500):
        one, two, three = generator.sample(WORDS, 3)
        wrong = f"def {one}_{generator.choice(WORDS)}({generator.choice(WORDS)}): pass"
        rows.append((f"how to {one} the {two} {three}", [f"def {one}_{two}({three}): pass"], [wrong] if i % 2 else []))
    return rows


def noise_rows(_: Path) -> list[Row]:
    generator = random.Random(1)
    return [(words(generator), [words(generator)], []) for _ in range(64)]


def swapped_rows(_: Path) -> list[Row]:
    """The answer, the query's own words with a full stop, stands in the column of the hard negatives."""
    generator = random.Random(2)
    queries = [words(generator) for _ in range(32)]
    return [(query, [words(generator)], [query + "."]) for query in queries]


def one_query_rows(_: Path) -> list[Row]:
    return [("the same question", [f"answer {word}"], []) for word in WORDS]


def one_answer_rows(_: Path) -> list[Row]:
    return [(f"question {word}", ["the same answer"], []) for word in WORDS]


def kill_mlp(encoder: torch.nn.Module) -> None:
    for name, weight in encoder.named_parameters():
        if "gate_proj" in name or "down_proj" in name:
            torch.nn.init.zeros_(weight)


def related_rows(_: Path) -> list[Row]:
    """Positives share two words with their query: nearer to it than most documents, but not than the nearest."""
    generator = random.Random(3)
    queries = [generator.sample(WORDS, 4) for _ in range(64)]
    return [(" ".join(query), [" ".join([*generator.sample(WORDS, 2), *query[2:]])], []) for query in queries]


HEALTHY = {
    "warm-up and decay to zero": (
        learnable_rows,
        {"steps": 40, "lr": lambda s: 2e-3 * min((s + 1) / 9, (39 - s) / 20)},
    ),
    "lora": (learnable_rows, {"steps": 35, "lr": 5e-3, "lora": LoraConfig(rank=4, alpha=8)}),
    "the stage's own test": (usual_rows, {"steps": 30}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_is_met_with_silence(tiny_qwen3: Path, tmp_path: Path, name: str) -> None:
    rows, settings = HEALTHY[name]
    outcome = train(tiny_qwen3, rows(tmp_path), **settings)  # type: ignore[operator, arg-type]
    losses = [metrics["loss"] for metrics in outcome.metrics]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), "it did not learn: silence would prove nothing"  # type: ignore[arg-type]
    assert outcome.alerts == []


TROUBLED: dict[str, tuple[Callable[[Path], list[Row]], dict[str, Any], set[str]]] = {
    "lr 0 under LoRA": (
        usual_rows,
        {"steps": 10, "lr": 0.0, "lora": LoraConfig(rank=4, alpha=8)},
        {"lr_zero", "nothing_learned", "lora_without_effect", "no_gradient"},
    ),
    "LoRA with alpha 0": (
        usual_rows,
        {"steps": 10, "lora": LoraConfig(rank=4, alpha=0)},
        {"lora_without_effect"},
    ),
    "bf16 weights": (
        usual_rows,
        {"steps": 15, "lr": 3e-5, "prepare": lambda encoder: encoder.to(torch.bfloat16)},
        {"few_weights_move"},
    ),
    "a dead mlp": (usual_rows, {"steps": 10, "prepare": kill_mlp}, {"no_gradient"}),
    "a huge learning rate": (usual_rows, {"steps": 40, "lr": 3.0}, {"collapse"}),
    "one query": (one_query_rows, {"steps": 25}, {"collapse", "duplicates", "few_negatives"}),
    "one answer": (one_answer_rows, {"steps": 10}, {"duplicates", "few_negatives"}),
    "margin 0": (
        related_rows,
        {"steps": 25, "batch_size": 16, "lr": 1e-5, "loss": InfoNCE(false_negative_margin=0.0)},
        {"mask_greedy"},
    ),
    "columns swapped": (swapped_rows, {"steps": 25, "lr": 1e-5}, {"positives_below", "mask_greedy"}),
    "temperature 1": (usual_rows, {"steps": 10, "loss": InfoNCE(temperature=1.0)}, {"temperature_flattens"}),
    "temperature 0.001": (
        usual_rows,
        {"steps": 50, "loss": InfoNCE(temperature=0.001)},
        {"temperature_saturates"},
    ),
    "nothing left to learn, then one huge step": (
        usual_rows,
        {"steps": 57, "lr": lambda step: 0.3 if step == 54 else 2e-3 if step < 20 else 1e-3},
        {"negatives_easy", "loss_spike", "gradient_explosion"},
    ),
    "a learning rate far too low, and clipping": (
        noise_rows,
        {"steps": 112, "every": 200, "lr": 1e-12, "max_grad_norm": 0.01, "batch_size": 4},
        {"loss_flat", "always_clipped"},
    ),
}


@pytest.mark.parametrize("name", TROUBLED)
def test_a_troubled_training_is_told_what_ails_it(tiny_qwen3: Path, tmp_path: Path, name: str) -> None:
    rows, settings, expected = TROUBLED[name]
    outcome = train(tiny_qwen3, rows(tmp_path), **settings)
    # At a huge learning rate it is chance whether a norm of the gradient stands out before everything has collapsed.
    chance = {"gradient_explosion"} if name == "a huge learning rate" else set()
    assert outcome.said() - chance == expected


def test_every_rule_but_non_finite_is_provoked_by_a_real_training() -> None:
    """A non-finite step ends a training here; see the guard's tests."""
    provoked = set().union(*(expected for _, _, expected in TROUBLED.values()))
    assert provoked == {rule.name for rule in RULES} - {"non_finite"}


def test_an_alert_names_figure_cause_and_remedy(tiny_qwen3: Path, tmp_path: Path) -> None:
    outcome = train(tiny_qwen3, usual_rows(tmp_path), steps=6, lora=LoraConfig(rank=4, alpha=0))
    assert [str(alert) for alert in outcome.alerts] == [
        "step 5: lora_without_effect: LoRA's scaling alpha / rank is 0: the adapters do nothing. Set model.lora.alpha, "
        "e.g. to twice the rank."
    ]


def test_a_problem_is_said_once_when_it_begins_and_once_when_it_ends() -> None:
    monitor_alerts = Alerts(steps=100)
    said = []
    for step, lr in enumerate([1e-5, 0.0, 0.0, 1e-5, 0.0, 0.0, 0.0, 0.0, 1e-5, 0.0, 1e-5, 1e-5, 1e-5], start=1):
        said += [(alert.step, alert.begins) for alert in monitor_alerts.see(step, {"lr": lr})]
        assert [alert.name for alert in monitor_alerts.active] == (["lr_zero"] if 7 <= step < 12 else [])
    assert said == [(7, True), (12, False)]
    assert str(monitor_alerts.history[-1]) == "step 12: lr_zero: over (it began at step 7)."


def test_sources_are_judged_apart_and_the_run_once() -> None:
    monitor_alerts = Alerts(steps=100)
    bad, good = {"effective_negatives": 0.0, "lr": 0.0}, {"effective_negatives": 30.0, "lr": 0.0}
    said = []
    for step in range(1, 9):
        metrics, source = (bad, "code") if step % 2 else (good, "web")
        said += [(alert.name, alert.source) for alert in monitor_alerts.see(step, metrics, source=source)]
    assert said == [("lr_zero", ""), ("few_negatives", "code")]
    assert "few_negatives (code)" in str(monitor_alerts.history[1])


@pytest.mark.parametrize(("task", "expected"), [("retrieval", 1), ("sts", 0), ("classification", 0), ("clustering", 0)])
def test_graded_and_labelled_tasks_are_not_judged_by_their_ranking(task: str, expected: int) -> None:
    monitor_alerts = Alerts(steps=100)
    metrics = {"health/duplicate_queries": 0.9, "health/duplicate_positives": 0.9}
    said = [alert for step in (1, 2, 3) for alert in monitor_alerts.see(step, metrics, task=task)]
    assert len(said) == expected


def collapsed(step: int, monitor_alerts: Alerts) -> bool:
    metrics = {"health/query_cosine": 1.0, "health/effective_rank": 1.0, "health/largest_rank": 8.0}
    return any(alert.name == "collapse" for alert in monitor_alerts.see(step, metrics))


@pytest.mark.parametrize(("steps", "first_judged"), [(50, 20), (500, 100), (10_000, 500)])
def test_a_base_models_first_steps_are_no_collapse(steps: int, first_judged: int) -> None:
    monitor_alerts = Alerts(steps)
    assert not any(collapsed(step, monitor_alerts) for step in range(1, first_judged + 1))
    assert collapsed(first_judged + 1, monitor_alerts)


def test_a_resumed_run_is_not_compared_with_the_first_steps_it_never_saw() -> None:
    for first_step, expected in ((0, ["loss_flat"]), (700, [])):
        monitor_alerts = Alerts(steps=1000, first_step=first_step)
        said = [alert for step in range(300) for alert in monitor_alerts.see(first_step + step + 1, {"loss": 1.0})]
        assert [alert.name for alert in said] == expected


def test_a_resumed_run_takes_up_its_alerts_where_they_were() -> None:
    """As if it had not been interrupted: nothing is reported twice, and the first steps are known."""
    records: list[dict[str, object]] = [
        {"step": step, "loss": 1.0 if step < 300 else 0.2, "source": "rows", "task": "retrieval"}
        for step in range(1, 400)
    ]
    unbroken = Alerts(steps=1000)
    unbroken.recall(records)
    assert [(alert.name, alert.begins) for alert in unbroken.history] == [("loss_flat", True), ("loss_flat", False)]
    for cut in (5, 290, 305):
        resumed = Alerts(steps=1000, first_step=cut)
        resumed.recall(records[:cut])
        for record in records[cut:]:
            resumed.see(int(str(record["step"])), record, source="rows")
        assert resumed.to_json() == unbroken.to_json()


def test_nan_is_said_and_spoils_no_later_judgement() -> None:
    monitor_alerts = Alerts(steps=1000)
    for step in range(30):
        assert monitor_alerts.see(step + 1, {"loss": 1.0, "grad_norm": 2.0}) == []
    (alert,) = monitor_alerts.see(31, {"loss": float("nan"), "grad_norm": float("nan")})
    assert (alert.name, alert.begins) == ("non_finite", True)
    assert monitor_alerts.see(32, {"loss": 1.0, "grad_norm": float("nan"), "skipped": "step 31"}) == []
    assert [r.begins for r in monitor_alerts.see(33, {"loss": 1.0, "grad_norm": float("nan")})] == [False]
    assert [r.name for r in monitor_alerts.see(34, {"loss": 5.0, "grad_norm": 2.0})] == ["loss_spike"]
