"""merge_search: the chosen merge is never below a single model on dev; points, plot and test scores stay."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.cli.merge_search import MergeSearchConfig
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.evaluation.evaluate import SetConfig
from qwen3emb_train.evaluation.report.report import ReportConfig, write_report
from qwen3emb_train.merging.config import MergeConfig
from qwen3emb_train.merging.merge import merge_models
from qwen3emb_train.merging.plot import PAGE_FILE, PLOT_FILE
from tests.evaluation.tiny_set import write_tiny_set
from tests.tiny import make_tiny_model_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run with three checkpoints."""
    root = tmp_path_factory.mktemp("run")
    start = make_tiny_model_directory(root / "base", num_layers=1)
    generator = torch.Generator().manual_seed(0)
    for step in (10, 20, 30):
        copy = Path(shutil.copytree(start, root / "checkpoints" / f"step_{step:06d}" / "model"))
        weights = load_file(start / "model.safetensors")
        moved = {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in weights.items()}
        save_file(moved, copy / "model.safetensors", metadata={"format": "pt"})
    return root


@pytest.fixture
def arguments(run: Path, tmp_path: Path) -> list[str]:
    retrieval = write_tiny_set(tmp_path / "set")
    sets = [f"dev_sets.{name}.path={retrieval}" for name in ("one", "two")]
    sets += ["dev_sets.two.split=dev", "dev_sets.two.instruction=", f"test_sets.kept.path={retrieval}"]
    (retrieval / "qrels" / "final.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td1\t1\nq1\td1\t1\n")
    settings = ["ndcg_at=3", "precision=fp32", "max_tokens=32", "max_evaluations=8"]
    output = f"output_dir={tmp_path / 'out'}"
    return ["merge_search", f"run={run}", *sets, "test_sets.kept.split=final", *settings, output]


@pytest.mark.parametrize(("strategy", "count"), [("golden", 2), ("coordinate", 3)])
def test_the_chosen_merge_is_at_least_the_best_checkpoint(
    arguments: list[str], run: Path, tmp_path: Path, strategy: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"strategy={strategy}", f"count={count}"]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    metrics = record["metrics"]
    tried = metrics["tried"]
    assert [point["weights"] for point in tried[:count]] == [
        [float(i == j) for i in range(count)] for j in range(count)
    ]
    assert metrics["dev"]["mean"] == max(point["mean"] for point in tried)
    assert metrics["dev"]["mean"] >= max(point["mean"] for point in tried[:count])
    assert count + 1 <= len(tried) <= 8
    assert all(point["mean"] == pytest.approx((point["one"] + point["two"]) / 2) for point in tried)
    names = {f"model_{position}" for position in range(count)} | {"equal weights", "chosen"}
    assert set(metrics["test"]) == names
    assert all(set(scores) == {"kept"} for scores in metrics["test"].values())
    weights = [metrics["weights"][f"model_{position}"] for position in range(count)]
    named = MergeConfig(run=str(run), count=count, weights=weights, output_dir=str(tmp_path / "named"))
    expected = load_file(merge_models(named) / "model.safetensors")
    assert all(torch.equal(expected[n], t) for n, t in load_file(tmp_path / "out" / "model.safetensors").items())
    page = (tmp_path / "out" / PAGE_FILE).read_text()
    assert page.count("<tr") == len(tried) + 1
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "").replace(
        "https://www.w3.org", ""
    ).replace("http://purl.org", "").replace("http://creativecommons.org", ""), "self-contained: namespaces only"
    assert (tmp_path / "out" / PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    report = write_report(ReportConfig(merges={"search": str(tmp_path / "out")}, output_dir=str(tmp_path / "report")))
    assert f"{len(tried)} merges scored" in report.read_text(encoding="utf-8"), "report reads what merge_search wrote"
    capsys.readouterr()
    assert main([*arguments, f"strategy={strategy}", f"count={count}"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_search_started_again_evaluates_nothing_again(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are known by the digest of the weights; the points and the files are the same to the byte."""
    assert main(arguments) == 0
    first = {name: (tmp_path / "out" / name).read_bytes() for name in ("model.safetensors", PLOT_FILE, PAGE_FILE)}
    tried = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]["tried"]
    shutil.rmtree(tmp_path / "out")
    from qwen3emb_train.evaluation import evaluate

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded to be scored")

    monkeypatch.setattr(evaluate, "load_embedder", refuse)
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]["tried"] == tried
    assert {name: (tmp_path / "out" / name).read_bytes() for name in first} == first
    assert not (tmp_path / "out.evaluations" / "candidate").exists()


def test_self_positioning_proposes_a_point_and_dev_decides(arguments: list[str], tmp_path: Path) -> None:
    probe = tmp_path / "probe.jsonl"
    write_examples(probe, [TrainingExample(f"about {word}", (f"It is {word}.",)) for word in ("lists", "dogs", "cats")])
    assert main([*arguments, "strategy=self_positioning", f"probe.path={probe}", "probe.steps=2"]) == 0
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    path = metrics["self_positioning"]
    assert len(path) == 3
    assert metrics["tried"][-1]["weights"] == pytest.approx(path[-1]["weights"], abs=1e-6)
    assert len(metrics["tried"]) == 4


def test_dare_is_searched_too(arguments: list[str], run: Path, tmp_path: Path) -> None:
    assert main([*arguments, "method=dare_ties", f"base={run / 'base'}", "density=0.8", "max_evaluations=4"]) == 0
    assert "base" in json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dev_sets": {}}, "dev_sets is empty"),
        ({"test_sets": {"x": SetConfig("d", "dev")}}, "test_sets.x is also a dev set"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"strategy": "self_positioning"}, "belong together"),
        ({"models": ["a"]}, "at least two"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, object], message: str) -> None:
    from qwen3emb_train.merging.search import SearchStrategy

    if "strategy" in settings:
        settings = settings | {"strategy": SearchStrategy.self_positioning}
    given = {"models": ["a", "b"], "dev_sets": {"d": SetConfig("d", "dev")}, "output_dir": "o"} | settings
    with pytest.raises(ValueError, match=message):
        MergeSearchConfig(**given)  # type: ignore[arg-type]
