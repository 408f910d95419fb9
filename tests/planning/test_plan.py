"""The program: one screen, refusals with remedies that help, nothing touched."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.losses.cosent import CoSENT
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.planning.plan import Plan, plan
from qwen3emb_train.planning.program import run_plan
from qwen3emb_train.planning.report import format_plan
from tests.planning.models import write_shape

RECIPE = ["--config-dir", "recipes/qwen3-embedding-0.6b", "--config-name", "1_pretrain"]


def config_of(**changes: object) -> PlanConfig:
    settings = {
        "model": ModelConfig(path="Qwen/Qwen3-0.6B"),
        "data": {"x": SourceConfig(path="nowhere.jsonl")},
        "batch_size": 1024,
        "steps": 100,
        "num_gpus": "8",
        "mean_query_tokens": 30.0,
        "mean_document_tokens": 200.0,
    }
    return PlanConfig(**(settings | changes))  # type: ignore[arg-type]


def planned(**changes: object) -> Plan:
    return plan(config_of(**changes))[0]


def refusals(result: Plan) -> str:
    return "\n".join([*result.refusals, *(text for column in result.columns for text in column.refusals)])


@pytest.mark.parametrize("size", ["0.6b", "4b", "8b"])
def test_the_recipes_can_be_planned_on_1_to_512_gpus(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly train_embedding's arguments, and the machine. LoRA for 4B and 8B, as their model files say."""
    arguments = [*RECIPE, f"model=qwen3_{size}", "num_gpus=1,8,64,512", "tokens_per_chunk=2048"]
    assert main(["plan", *arguments, "gpu=h200", "mean_query_tokens=100", "mean_document_tokens=200"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"GPUs +1 +8 +64 +512\n", shown)
    assert re.search(r"GPU-hours( +[\d,.]+){4}\n", shown)
    assert max(map(len, shown.splitlines()[:35])) <= 120
    assert len(shown.splitlines()) < 50


def test_a_plan_neither_writes_nor_needs_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only config.json lies in the model directory; the output directory stays absent, config.yaml included."""
    model = write_shape(tmp_path / "model")
    output = tmp_path / "output"
    arguments = [f"model.path={model}", "data.mine.path=x.jsonl", f"output_dir={output}", "num_gpus=2", "gpu=4090"]
    lengths = ["lengths.max_query_tokens=64", "lengths.max_document_tokens=64"]
    assert main(["plan", *arguments, *lengths]) == 0
    assert not output.exists()
    assert main(["plan", *arguments, *lengths, f"json_path={tmp_path / 'a' / 'plan.json'}"]) == 0
    written = json.loads((tmp_path / "a" / "plan.json").read_text())
    assert written["columns"][0]["num_gpus"] == 2
    assert written["columns"][0]["memory"]["parts"]["weights"] == 4 * written["model"]["total"]


def test_an_impossible_setting_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(config_of(num_gpus="7")) == 2
    assert "REFUSED on 7 GPUs: batch_size=1024 is not divisible by 7 ranks: use 1022 or 1029" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"matryoshka_dims": [2048, 512]}, r"holds 2048, but the model has 1024 components: use \[1024, 512\]"),
        (
            {"lengths": LengthConfig(max_document_tokens=50_000)},
            "max_document_tokens=50000 is beyond the model's 40960",
        ),
        ({"engine": Parallelism.hsdp, "num_gpus": "12", "batch_size": 1200}, "12 is not a multiple of 8"),
        (
            {"data": {"x": SourceConfig(path="x", batch_size=60)}},
            "data.x.batch_size=60 is not divisible by 8 ranks: use 56 or 64",
        ),
        ({"mixture": MixtureConfig(epochs=2), "steps": None}, "number of steps is unknown"),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(changes: dict[str, object], said: str) -> None:
    result = planned(**changes)
    assert re.search(said, refusals(result))
    assert not result.is_possible


def test_too_many_epochs_and_chunks_shorter_than_texts_are_doubted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": f"q{i}", "positive": "p"}) + "\n" for i in range(1024)))
    data = {"x": SourceConfig(path=str(path))}
    result = planned(data=data, tokens_per_chunk=100, sample_rows=2000)
    assert any("100 times" in text and "1 steps are one epoch" in text for text in result.warnings)
    assert any("tokens_per_chunk=100 is less than the longest text, 512" in text for text in result.warnings)
    assert not planned(data=data, steps=5).warnings
    assert planned(data=data, mixture=MixtureConfig(epochs=3), steps=None, sample_rows=2000).steps == 3
    assert "exceeds the 1024 rows" in refusals(planned(data=data, batch_size=2048, sample_rows=2000))


def test_candidate_negatives_count_the_terms_of_the_loss() -> None:
    found = planned(mean_negatives=7.0, loss=InfoNCE(query_query=False, gather_hard_negatives=True)).negatives
    assert found == {"own hard negatives": 7, "d-d": 1023 * 8, "q-d": 1023 * 8}
    assert planned(mean_negatives=7.0).negatives["q-d"] == 1023, "others' hard negatives only where the loss takes them"
    assert planned(loss=CoSENT()).negatives == {}


def test_tokens_of_a_step_are_shared_out(tmp_path: Path) -> None:
    result = planned(num_gpus="1,4", mean_negatives=1.0)
    one, four = result.columns
    assert one.load.tokens == 1024 * (30 + 2 * 200) == 4 * four.load.tokens
    assert (one.load.columns, four.load.columns) == (0, 1024 * 2)
    assert one.time.encoder == pytest.approx(4 * four.time.encoder, rel=0.05)
    assert four.hours == pytest.approx(four.time.total * 100 / 3600)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "h10"}, "Did you mean h100"),
        ({"num_gpus": "eight"}, "num_gpus is eight"),
        ({"num_gpus": "0,8"}, "num_gpus is 0,8"),
        ({"gpus_per_node": 0}, "gpus_per_node is 0"),
    ],
)
def test_settings_of_the_plan_itself_are_checked(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(**change)


def test_the_screen_says_what_it_assumes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(
        price_per_gpu_hour=2.0, num_gpus="[1, 8]", model=ModelConfig("Qwen/Qwen3-4B", lora=LoraConfig(8))
    )
    shown = format_plan(plan(config)[0], config)
    for part in (
        "LoRA rank 8",
        "no file yet",
        "mean_query_tokens, mean_document_tokens as given",
        "cost",
        "kernels of the real modules at h100's rates",
    ):
        assert part in shown


def test_the_dry_run_is_part_of_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(num_gpus="1,16", engine=Parallelism.hsdp, dry_run=True)
    assert run_plan(config) == 0
    shown = capsys.readouterr().out
    assert shown.count("agree") >= 4
    assert "DIFFER" not in shown


def test_precision_follows_the_machine() -> None:
    check: Callable[..., bool] = lambda **changes: planned(**changes).bf16  # noqa: E731
    from qwen3emb_train.models.precision import Precision

    assert check()
    assert not check(precision=Precision.fp32)
    assert check(gpu="cpu", precision=Precision.bf16)
