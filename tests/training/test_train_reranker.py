"""The stage: what it leaves is a causal language model that scores as it was trained; resumed equals unbroken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.reranker_tokens import load_reranker_tokenizer
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.loading import LM_HEAD, ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training import stage
from qwen3emb_train.training.checkpoints import Checkpoints
from qwen3emb_train.training.config import TrainRerankerConfig
from qwen3emb_train.training.loop import fit
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.train_reranker import train_reranker
from qwen3emb_train.training.validation import ValidationConfig
from tests.index.reranker_reference import WEB_SEARCH, PlainReranker
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory
from tests.training.setup import WORDS

ANSWER_ALERTS = {"one_class", "all_yes", "all_no", "no_separation"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "tied")


def write_rows(path: Path, num_rows: int = 16, first: int = 0) -> Path:
    """Ragged, both line formats by turns; what is relevant begins with "def"."""
    with path.open("w") as file:
        for i in range(first, first + num_rows):
            a, b, c = (WORDS[(i * k + k) % len(WORDS)] for k in (1, 5, 7))
            right, wrong = f"def {a}_{i}(): {b}", [f"class {word}: {c}" for word in WORDS[i % 5 : i % 5 + 1 + i % 4]]
            row: dict[str, Any] = {"query": f"how to {a} a {b} {i}?"}
            if i % 2:
                row |= {"documents": [*wrong, right], "labels": [0] * len(wrong) + [1]}
            else:
                row |= {"positives": [right], "negatives": wrong, "instruction": "Find code"}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def make_config(base: Path, rows: Path, output_dir: Path, /, **changes: Any) -> TrainRerankerConfig:
    settings: dict[str, Any] = {
        "model": ModelConfig(path=str(base)),
        "data": {"rows": SourceConfig(path=str(rows))},
        "optimizer": OptimizerConfig(lr=3e-3),
        "batch_size": 4,
        "steps": 4,
        "max_tokens": 300,
        "tokens_per_chunk": 500,
        "precision": Precision.fp32,
        "device": "cpu",
        "output_dir": str(output_dir),
        "cache_dir": str(output_dir.parent / "cache"),
    }
    return TrainRerankerConfig(**(settings | changes))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def troubles_of(run: Path) -> set[str]:
    """What health.json says has begun, over or not."""
    return {alert["name"] for alert in json.loads((run / "health.json").read_text())["alerts"] if alert["begins"]}


def scores_of(model: Path, query: str, documents: list[str], instruction: str | None = None) -> list[float]:
    reranker = TextReranker.load(str(model), max_tokens=300, precision="fp32", device="cpu")
    return reranker.score(query, documents, instruction).tolist()


def stopped_after(step: int) -> Callable[..., object]:
    """A ``fit`` that dies when that step is saved, as a process would."""

    def dying_fit(*args: Any, **kwargs: Any) -> object:
        save = kwargs["save"]

        def save_then_die(state: Any) -> None:
            save(state)
            if state.step == step:
                raise KeyboardInterrupt

        return fit(*args, **(kwargs | {"save": save_then_die}))

    return dying_fit


@pytest.fixture(scope="module")
def learned(tiny: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainRerankerConfig, Path]:
    """A run long enough to be judged, with held-out rows."""
    output_dir = tmp_path_factory.mktemp("learned") / "run"
    held = write_rows(output_dir.parent / "held.jsonl", num_rows=8, first=100)
    config = make_config(
        tiny, rows, output_dir, steps=40, log_every=5, health_every=5, save_every=20,
        validation_data={"held": SourceConfig(path=str(held))}, validation=ValidationConfig(every=20, batch_size=4),
    )  # fmt: skip
    train_reranker(config)
    return config, output_dir


def test_training_teaches_and_leaves_everything_a_next_stage_needs(learned: tuple[TrainRerankerConfig, Path]) -> None:
    _, run = learned
    metrics = metrics_of(run)
    losses = [line["loss"] for line in metrics if "loss" in line]
    assert losses[-1] < 0.3 * losses[0]
    assert metrics[-1]["step"] == 40
    record = json.loads((run / "run.json").read_text())
    assert record["program"] == "train_reranker"
    assert set(record["inputs"]) == {"data.rows", "model"}
    assert record["metrics"]["examples_seen"] == 160
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert LM_HEAD not in load_file(run / "model" / "model.safetensors"), "a tied head is not written twice"


def test_the_trained_model_scores_alike_in_transformers_and_here(learned: tuple[TrainRerankerConfig, Path]) -> None:
    _, run = learned
    query, documents = "how to sort a file?", ["def sort_3(): file", "class sum: list", "x " * 400, "return"]
    own = "Find code"  # of the most rows, so the model's own
    expected = PlainReranker(run / "model", 300).score(query, documents, own)
    assert scores_of(run / "model", query, documents) == pytest.approx(expected, abs=1e-4)
    assert expected[0] > 1 > -1 > expected[1], "it has learned"


def test_held_out_metrics_are_those_of_the_saved_model(learned: tuple[TrainRerankerConfig, Path]) -> None:
    config, run = learned
    scored = []
    for line in Path(config.validation_data["held"].path).read_text().splitlines():
        row = json.loads(line)
        documents = row.get("documents") or row["positives"] + row["negatives"]
        labels = row.get("labels") or [1] + [0] * len(row["negatives"])
        asked = row.get("instruction", WEB_SEARCH)
        reranker = TextReranker.load(str(run / "model"), max_tokens=300, precision="fp32", device="cpu")
        scored.append((reranker.score(row["query"], documents, asked), torch.tensor(labels) > 0))
    reciprocal = [1 / (1 + int((score[~relevant] >= score[relevant].max()).sum())) for score, relevant in scored]
    scores, relevant = (torch.cat(column) for column in zip(*scored, strict=True))
    auc = (scores[relevant][:, None] > scores[~relevant]).float().mean()
    validated = [line for line in metrics_of(run) if "validation/mrr" in line]
    assert [line["step"] for line in validated] == [20, 40]
    last = validated[-1]
    assert last["validation/held/mrr"] == last["validation/mrr"] == pytest.approx(sum(reciprocal) / len(reciprocal))
    assert last["validation/auc"] == pytest.approx(float(auc), abs=0.01)
    names = {name.removeprefix("validation/") for name in last if name.count("/") == 1 and "validation" in name}
    assert {"loss", "mrr", "auc", "accuracy_at_1", "calibration_error"} <= names


def test_a_healthy_run_is_met_with_silence(learned: tuple[TrainRerankerConfig, Path]) -> None:
    _, run = learned
    looked = [line for line in metrics_of(run) if "health/auc" in line]
    assert len(looked) > 7
    assert looked[-1]["health/auc"] > 0.95
    assert not troubles_of(run) & ANSWER_ALERTS


def test_a_finished_stage_is_up_to_date(
    learned: tuple[TrainRerankerConfig, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = learned
    written = (run / "run.json").stat().st_mtime_ns
    assert train_reranker(config) == run / "model"
    assert "up to date" in capsys.readouterr().out
    assert (run / "run.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("lora", [0, 4])
def test_resumed_equals_unbroken_to_the_bit(
    tiny: Path, rows: Path, tmp_path: Path, lora: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelConfig(path=str(tiny), lora=LoraConfig(rank=lora, dropout=0.2 if lora else 0.0))
    whole, cut = (make_config(tiny, rows, tmp_path / name, model=base, save_every=2) for name in ("whole", "cut"))
    expected = train_reranker(whole)
    with monkeypatch.context() as context:
        context.setattr(stage, "fit", stopped_after(2))
        with pytest.raises(KeyboardInterrupt):
            train_reranker(cut)
    assert Checkpoints(tmp_path / "cut" / "checkpoints").steps() == [2]
    resumed = train_reranker(cut)
    one, other = load_file(expected / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_change_the_scores_and_are_merged_into_what_is_saved(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with a head of its own."""
    tiny = make_tiny_causal_lm_directory(tmp_path / "untied", tied=False)
    trained: list[Any] = []
    monkeypatch.setattr(stage, "fit", lambda *args, **kwargs: trained.append(args[2].model) or fit(*args, **kwargs))
    base = ModelConfig(path=str(tiny), lora=LoraConfig(rank=4))
    model = train_reranker(make_config(tiny, rows, tmp_path / "run", model=base, steps=3))
    query, documents = "how to sort a file?", ["def sort_3(): file", "class sum: list", "return"]
    before, after = scores_of(tiny, query, documents, "Find code"), scores_of(model, query, documents)
    assert min(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-2
    tokenizer = load_reranker_tokenizer(str(model))
    adapter = TextReranker(trained[0], tokenizer, max_tokens=300, precision=Precision.fp32, device="cpu")
    assert after == pytest.approx(adapter.score(query, documents, "Find code").tolist(), abs=1e-5)
    saved, original = load_file(model / "model.safetensors"), load_file(tiny / "model.safetensors")
    assert saved.keys() == original.keys()
    for name in ("model.embed_tokens.weight", LM_HEAD):
        assert torch.equal(saved[name], original[name])


def test_a_set_without_negatives_is_called_out_at_once(tiny: Path, tmp_path: Path) -> None:
    """What collapses into all yes (every document labelled relevant) is said when the run begins."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"query": f"q {i}", "positives": [f"a {i}", f"b {i}"]}) + "\n" for i in range(16))
    )
    run = tmp_path / "run"
    train_reranker(make_config(tiny, path, run, steps=4, batch_size=8, max_positives=2, health_every=2))
    health = json.loads((run / "health.json").read_text())
    (alert,) = [alert for alert in health["active"] if alert["name"] in ANSWER_ALERTS]
    assert (alert["name"], alert["source"], alert["step"]) == ("one_class", "rows", 1)
    assert "Add negatives" in alert["text"]


def test_a_model_that_says_yes_to_everything_is_called_out(tiny: Path, tmp_path: Path) -> None:
    """Labels that documents do not explain, and far too much weight on yes: P(yes) goes to 1 for all."""
    rng = torch.Generator().manual_seed(0)
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(64):
            labels = (torch.rand(2, generator=rng) < 0.5).int().tolist()
            file.write(json.dumps({"query": f"q {i}", "documents": ["one", "other"], "labels": labels}) + "\n")
    run = tmp_path / "run"
    train_reranker(
        make_config(
            tiny, path, run, steps=36, health_every=4, loss=PointWise(Answers.two_way, positive_weight=300.0),
            optimizer=OptimizerConfig(lr=1e-2),
        )
    )  # fmt: skip
    assert "all_yes" in troubles_of(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"bidirectional": True}}, "a reranker answers as a causal language model. Set it to false"),
        ({"max_tokens": 40}, r"max_tokens is 40, and the reranker's template alone takes \d+: use at least"),
        ({"max_positives": 0}, "max_positives is 0; it must be at least 1"),
        ({"max_negatives": -1}, "max_negatives is -1; it must be at least 0"),
        ({"max_negatives": 0, "data": "all_negative"}, r"rows row \d.*leave no document to judge.*Raise max_negatives"),
        ({"model": {"path": "no_answers"}}, "the answer 'yes' is 2 tokens .* of this tokenizer"),
        ({"model": {"path": "absent"}}, "no such directory"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    tiny: Path, rows: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "model" in changes:
        path = changes["model"].get("path")
        if path == "no_answers":
            make_tiny_model_directory(tmp_path / path)
        settings = changes["model"] | {"path": str(tmp_path / path if path else tiny)}
        changes = changes | {"model": ModelConfig(**settings)}
    if "data" in changes:
        path = tmp_path / "all_negative.jsonl"
        path.write_text(
            "".join(json.dumps({"query": f"{i}", "documents": ["a"], "labels": [0]}) + "\n" for i in range(8))
        )
        changes = changes | {"data": {"rows": SourceConfig(path=str(path))}}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_reranker(make_config(tiny, rows, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "run.json").exists()


def test_every_model_directory_records_what_it_was_trained_to_judge_by(tiny: Path, rows: Path, tmp_path: Path) -> None:
    """Half of the rows bring their own instruction, the others take their source's: of equals the first by name."""
    few = write_rows(tmp_path / "few.jsonl", 4)
    data = {
        "rows": SourceConfig(str(rows), instruction="Judge it"),
        "few": SourceConfig(str(few), instruction="Judge it"),
    }
    model = train_reranker(make_config(tiny, rows, tmp_path / "run", data=data, steps=2, save_every=1))
    for directory in (model, tmp_path / "run" / "checkpoints" / "step_000001" / "model"):
        assert Prompts.read(directory) == Prompts({"query": "Find code"}, "query")
    told = TextReranker.load(str(model), max_tokens=300, precision="fp32", device="cpu")
    assert told.instruction == "Find code"
    assert (
        told.score("how to sort", ["def sort"]).tolist()
        == told.score("how to sort", ["def sort"], "Find code").tolist()
    )
