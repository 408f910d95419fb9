"""mteb measures our models: its figures are our own, its files are whole and one model's, instructions stand where
they belong. Offline: the tasks are made here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, SetConfig, evaluate
from qwen3emb_train.evaluation.mteb_choice import choose_tasks
from qwen3emb_train.evaluation.mteb_local import LocalSetConfig, build_local_task
from qwen3emb_train.evaluation.mteb_model import Instructions, MtebModel, build_meta
from qwen3emb_train.evaluation.mteb_tasks import (
    EvaluateMtebConfig,
    TaskScore,
    evaluate_mteb,
    format_scores,
    run_tasks,
)
from qwen3emb_train.index.embedders import Embedder, EmbeddingSettings, load_embedder
from qwen3emb_train.models.precision import Precision
from tests.evaluation.test_evaluate import _write_random_set
from tests.tiny import make_tiny_model_directory

mteb: Any = pytest.importorskip("mteb")
TEXTS = ["a file", "open the file", "a sleeping cat", "the cat sleeps", "Berlin"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("models")
    return [make_tiny_model_directory(base / f"run_{seed}" / "model", seed=seed, num_layers=1) for seed in (0, 1)]


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_random_set(tmp_path_factory.mktemp("sets") / "words")


def config_of(model: Path, beir: Path, output_dir: Path, /, **changes: Any) -> EvaluateMtebConfig:
    settings: dict[str, Any] = {
        "model": str(model), "local_sets": {"Words": LocalSetConfig(str(beir))}, "output_dir": str(output_dir),
    }  # fmt: skip
    return EvaluateMtebConfig(**(settings | changes))


def files_of(output_dir: Path) -> list[str]:
    return sorted(path.relative_to(output_dir / "results").as_posix() for path in output_dir.glob("results/**/*.json"))


def metadata_of(name: str, kind: str = "Retrieval", prompt: Any = None) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name, description="made here", dataset={"path": "local", "revision": "1"}, type=kind, category="t2t",
        eval_splits=["test"], eval_langs=["eng-Latn"], prompt=prompt,
        main_score="cosine_spearman" if kind == "STS" else "ndcg_at_10",
    )  # fmt: skip


@pytest.fixture(scope="module")
def sts_task() -> Any:
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS

    class LocalSTS(AbsTaskSTS):
        metadata = metadata_of("LocalSTS", "STS", "Retrieve similar text")
        min_score, max_score = 0, 5

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            pairs = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [1.0, 2.0, 5.0, 0.0, 3.0]}
            self.dataset = {"test": Dataset.from_dict(pairs)}
            self.data_loaded = True

    return LocalSTS()


class Recorder:
    """An embedder that remembers what it was asked, and answers with a real one."""

    def __init__(self, model: Path) -> None:
        real = load_embedder(str(model), EmbeddingSettings(precision=Precision.fp32))
        self.queries: list[tuple[str, str | None]] = []
        self.documents: list[str] = []

        def encode_queries(texts: list[str], instruction: str | None) -> torch.Tensor:
            self.queries += [(text, instruction) for text in texts]
            return real.encode_queries(texts, instruction)

        def encode_documents(texts: list[str]) -> torch.Tensor:
            self.documents += texts
            return real.encode_documents(texts)

        self.embedder = Embedder(encode_queries, encode_documents)


@pytest.mark.parametrize(("instruction", "dim"), [(None, None), ("", None), ("Find the sentence", 8)])
def test_a_local_set_has_the_figures_of_evaluate(
    models: list[Path], beir: Path, tmp_path: Path, instruction: str | None, dim: int | None
) -> None:
    """Also at a prefix of the vectors; mteb rounds nDCG and recall to five decimals, MRR not."""
    chosen = LocalSetConfig(str(beir), instruction=instruction)
    config = config_of(models[0], beir, tmp_path / "mteb", local_sets={"Words": chosen}, dim=dim)
    (row,) = evaluate_mteb(config)
    ours = EvaluateConfig(
        models={"m": str(models[0])},
        sets={"Words": SetConfig(str(beir), instruction=instruction)},
        dims=[dim] if dim else [],
        output_dir=str(tmp_path / "o"),
    )
    (expected,) = (row for row in evaluate(ours) if row.set == "Words")
    (file,) = (path for path in tmp_path.glob("mteb/results/**/Words.json"))
    stored = mteb.TaskResult.from_disk(file).scores["test"][0]
    assert row == TaskScore("Words", "Retrieval", "ndcg_at_10", row.score, False)
    assert 0.05 < row.score < 0.95
    for found, name in (
        (row.score, "ndcg@10"), (stored["ndcg_at_10"], "ndcg@10"), (stored["recall_at_10"], "recall@10"),
    ):  # fmt: skip
        assert found == pytest.approx(round(expected.scores[name], 5), abs=1e-6)
    assert stored["mrr_at_10"] == pytest.approx(expected.scores["mrr@10"], abs=1e-6)


def test_mteb_leaves_out_a_querys_own_document_where_evaluate_does(beir: Path, tmp_path: Path) -> None:
    assert not build_local_task("Plain", LocalSetConfig(str(beir))).ignore_identical_ids
    with_queries = shutil.copytree(beir, tmp_path / "set")
    with (with_queries / "corpus.jsonl").open("a") as corpus:
        corpus.write("\n" + (with_queries / "queries.jsonl").read_text())
    assert build_local_task("Own", LocalSetConfig(str(with_queries))).ignore_identical_ids


def test_mteb_reads_the_files_back_and_runs_no_finished_task_again(
    models: list[Path], beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models of equal names keep apart; so do settings; an edited set and a torn file are measured anew."""
    config = config_of(models[0], beir, tmp_path / "out")
    (first,) = evaluate_mteb(config)
    assert "Words: ndcg_at_10" in capsys.readouterr().out
    (results,) = mteb.ResultCache(tmp_path / "out").load_results().model_results
    assert results.model_name == "local/run_0"
    assert results.task_results[0].get_score() == first.score
    folder = f"local__run_0/{results.model_revision}"
    assert files_of(tmp_path / "out") == [f"{folder}/Words.json", f"{folder}/model_meta.json"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["metrics"] == {"scores": {"Words": first.score}}
    assert record["inputs"].keys() == {"model", "set Words"}

    with monkeypatch.context() as context:
        context.setattr("qwen3emb_train.evaluation.mteb_tasks.load_embedder", pytest.fail)
        assert [(row.score, row.was_there) for row in evaluate_mteb(config)] == [(first.score, True)]
    assert [row.was_there for row in evaluate_mteb(config_of(models[0], beir, tmp_path / "out", overwrite=True))] == [
        False
    ]
    (other,) = evaluate_mteb(config_of(models[1], beir, tmp_path / "out", model_name="local/run_0"))
    assert other.score != first.score
    (short,) = evaluate_mteb(config_of(models[0], beir, tmp_path / "out", dim=4))
    (asked,) = evaluate_mteb(config_of(models[0], beir, tmp_path / "out", instructions={"Words": ""}))
    assert not any(row.was_there for row in (other, short, asked))
    files = files_of(tmp_path / "out")
    assert f"{folder}/experiments/dim_4/Words.json" in files
    assert len([name for name in files if name.endswith("/Words.json")]) == 4
    assert len({name.split("/")[1] for name in files}) == 2

    torn = tmp_path / "out" / "results" / folder / "Words.json"
    torn.write_text(torn.read_text()[:100])
    assert [(row.score, row.was_there) for row in evaluate_mteb(config)] == [(first.score, False)]

    edited = _copy_without_last_document(beir, tmp_path / "edited")
    changed = {"Words": LocalSetConfig(str(edited))}
    assert [
        row.was_there for row in evaluate_mteb(config_of(models[0], beir, tmp_path / "out", local_sets=changed))
    ] == [False]


def _copy_without_last_document(beir: Path, target: Path) -> Path:
    target.mkdir()
    judged = (beir / "qrels.tsv").read_text()
    lines = (beir / "corpus.jsonl").read_text().splitlines()
    unjudged = next(line for line in lines if f"\t{json.loads(line)['_id']}\t" not in judged)
    (target / "corpus.jsonl").write_text("\n".join(line for line in lines if line != unjudged))
    for name in ("queries.jsonl", "qrels.tsv"):
        (target / name).write_bytes((beir / name).read_bytes())
    return target


def test_symmetric_tasks_carry_the_instruction_on_all_texts_and_documents_never(
    models: list[Path], beir: Path, sts_task: Any, tmp_path: Path
) -> None:
    """And the score of the STS task is Spearman's between our cosines and the given scores."""
    from scipy.stats import spearmanr

    recorder = Recorder(models[0])
    instructions = Instructions({}, {}, "Do it")
    model = MtebModel(lambda: recorder.embedder, instructions, build_meta("local/a", "1", {}))
    (row,) = run_tasks(model, [sts_task], tmp_path)
    assert {text for text, _ in recorder.queries} == set(TEXTS)
    assert {instruction for _, instruction in recorder.queries} == {"Retrieve similar text"}
    vectors = recorder.embedder.encode_queries(TEXTS, "Retrieve similar text")
    cosines = (vectors * vectors.flip(0)).sum(1)
    assert row.score == pytest.approx(spearmanr(cosines, [1.0, 2.0, 5.0, 0.0, 3.0]).statistic, abs=1e-5)
    assert not recorder.documents

    recorder.queries.clear()
    inputs: list[dict[str, Any]] = [{"text": TEXTS[:2]}, {"text": TEXTS[2:]}]
    where = {"hf_split": "test", "hf_subset": "default"}
    metadata = metadata_of("Asymmetric", prompt="Retrieve duplicates")
    model.encode(inputs, task_metadata=metadata, prompt_type=mteb.types.PromptType.document, **where)
    assert recorder.documents == TEXTS
    model.encode(inputs, task_metadata=metadata, prompt_type=mteb.types.PromptType.query, **where)
    assert recorder.queries == [(text, "Retrieve duplicates") for text in TEXTS]
    assert isinstance(model, mteb.models.models_protocols.EncoderProtocol)


def test_the_users_instruction_goes_before_the_tasks_and_that_before_the_default() -> None:
    own, bare = metadata_of("Own", prompt={"query": "Of the task"}), metadata_of("Bare")
    given = Instructions({"Own": "Of the user", "None": ""}, {"Set": None, "Both": "Of the set"}, "Default")
    assert [given.of(own), given.of(metadata_of("None", prompt="x")), given.of(bare)] == ["Of the user", "", "Default"]
    assert [given.of(metadata_of("Set")), given.of(metadata_of("Both"))] == [None, "Of the set"]
    assert Instructions({"Both": "Of the user"}, {"Both": "Of the set"}).of(metadata_of("Both")) == "Of the user"
    assert Instructions().of(own) == "Of the task"
    assert (
        Instructions().of(mteb.get_task("SciFact").metadata)
        == "Given a scientific claim, retrieve documents that support or refute the claim"
    )
    assert Instructions().of(mteb.get_task("BIOSSES").metadata) == mteb.get_task("BIOSSES").abstask_prompt != ""
    assert DEFAULT_INSTRUCTION  # what None means to an embedder of ours


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_offline")
def test_a_hub_task_without_the_network_is_named(models: list[Path], beir: Path, tmp_path: Path) -> None:
    config = config_of(models[0], beir, tmp_path, tasks=["NFCorpus", "STS12"], local_sets={})
    with pytest.raises(ConnectionError, match=r"task NFCorpus: .*mteb/nfcorpus.* local_sets.NAME.path"):
        evaluate_mteb(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["NFCorpsu"]}, "NFCorpus"),
        ({"instructions": {"Wrods": "x"}}, "Wrods"),
        ({"local_sets": {"NFCorpus": LocalSetConfig("x")}}, "mteb has a task of this name"),
        ({"local_sets": {"W": LocalSetConfig("nowhere")}}, "nowhere"),
        ({"tasks": ["STS12"], "languages": ["deu"]}, "STS12.*deu"),
        ({"local_sets": {}}, "nothing to measure"),
        ({"model_name": "mine"}, "organisation/model"),
        ({"dim": 0}, "dim is 0"),
        ({"tasks": ["STS12", "STS12"]}, "more than once"),
        ({"model": "./nowhere"}, "no such directory"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(
    models: list[Path], beir: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_mteb(config_of(models[0], beir, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "results").exists()


def test_a_benchmarks_tasks_are_those_of_the_languages_without_what_it_left_out(beir: Path) -> None:
    """The benchmark is made here: mteb takes four seconds to list its own."""
    sts17 = mteb.get_task("STS17", hf_subsets=["en-en", "es-en", "ko-ko"])
    listed = SimpleNamespace(tasks=[sts17, mteb.get_task("GermanQuAD-Retrieval"), mteb.get_task("STS12")])
    with_benchmark = SimpleNamespace(get_benchmark={"Mine": listed}.__getitem__, get_task=mteb.get_task)

    def found(**changes: Any) -> dict[str, list[str]]:
        settings: dict[str, Any] = {
            "benchmark": "Mine", "names": [], "languages": [], "local_sets": {"Words": LocalSetConfig(str(beir))},
        }  # fmt: skip
        tasks = choose_tasks(with_benchmark, **(settings | changes), instructed=["SciFact"])
        return {task.metadata.name: sorted(task.hf_subsets) for task in tasks}

    assert list(found(names=["SciFact", "STS12"])) == ["STS17", "GermanQuAD-Retrieval", "STS12", "SciFact", "Words"]
    # de-en, too, is English, but not of this benchmark.
    assert found(languages=["eng"]) == {"STS17": ["en-en", "es-en"], "STS12": ["default"], "Words": ["default"]}
    assert found(languages=["kor-Hang", "deu"], local_sets={}) == {
        "STS17": ["ko-ko"], "GermanQuAD-Retrieval": ["default"]
    }  # fmt: skip
    assert len(sts17.hf_subsets) == 3
    with pytest.raises(ValueError, match="no task in languages"):
        found(languages=["fra"], local_sets={})
    with pytest.raises(ValueError, match="no such task or benchmark: Yours"):
        found(benchmark="Yours")


def test_the_table_has_both_means() -> None:
    rows = [
        TaskScore("A", "STS", "s", 0.5, False),
        TaskScore("B", "STS", "s", 0.7, True),
        TaskScore("C", "R", "n", 0.2, False),
    ]
    lines = [line.split() for line in format_scores(rows).splitlines()]
    assert [line[-1] for line in lines] == ["score", "0.5000", "0.7000", "0.2000", "0.4667", "0.4000"]
