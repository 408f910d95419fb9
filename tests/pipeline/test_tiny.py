"""The whole chain on a random model: train, mine, fine-tune, merge, export, evaluate, search."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query
from qwen3emb_train.index.inference import TextEncoder
from tests.tiny import make_tiny_model_directory

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = ROOT / "recipes" / "tiny"
STAGES = sorted(RECIPE.glob("[1-6]_*.yaml"))
TEXTS = [
    "how long to cook a soft egg",
    "上海是中国最大的城市之一。",
    "Franz Schubert composed more than six hundred songs.",
]


def documented_command(recipe: Path) -> list[str]:
    """Arguments of the command in the file's header: the one a reader will copy."""
    found = re.search(r"-m qwen3emb_train (.+)", recipe.read_text())
    assert found
    return shlex.split(found[1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs the documented commands in a directory that looks like a checkout; returns its outputs/tiny."""
    directory = tmp_path_factory.mktemp("checkout")
    (directory / "recipes").symlink_to(ROOT / "recipes")
    make_tiny_model_directory(directory / "outputs" / "tiny" / "base")
    with pytest.MonkeyPatch.context() as context:
        context.chdir(directory)
        for stage in STAGES:
            assert main(documented_command(stage)) == 0, stage
        yield directory / "outputs" / "tiny"


def test_every_stage_leaves_its_record_and_the_record_of_its_parents(results: Path) -> None:
    """The lineage reaches from the export back to the first stage."""
    record = json.loads((results / "export" / "run.json").read_text())
    programs = []
    while True:
        programs.append(record["program"])
        if not record["parents"]:
            break
        record = record["parents"].get("model") or next(iter(record["parents"].values()))
    assert programs == ["export", "merge", "train_embedding", "train_embedding"]


def test_training_changes_the_weights_and_merging_lies_between(results: Path) -> None:
    first, second, merged = (
        load_file(results / path / "model.safetensors")
        for path in (
            "3_finetune/checkpoints/step_000003/model",
            "3_finetune/checkpoints/step_000006/model",
            "4_merge",
        )
    )
    base = load_file(results / "base" / "model.safetensors")
    for name in ("embed_tokens.weight", "layers.1.mlp.up_proj.weight"):
        assert not torch.equal(first[name], base[name])
        whole = (first[name] - second[name]).norm()
        assert whole > 0
        assert (first[name] - merged[name]).norm() < 0.6 * whole
        assert (second[name] - merged[name]).norm() < 0.6 * whole


def test_mined_examples_hold_negatives_that_are_no_positives(results: Path) -> None:
    rows = [json.loads(line) for line in (results / "2_mine" / "examples.jsonl").read_text().splitlines()]
    assert len(rows) == len((RECIPE / "data" / "labelled.jsonl").read_text().splitlines())
    for row in rows:
        assert len(row["negatives"]) == 3
        assert "scores" not in row, "the miner's cosines are nobody's teacher"
        assert not set(row["negatives"]) & set(row["positives"])


def test_the_export_gives_the_trainers_vectors(results: Path) -> None:
    """What a user loads is what was trained: same pooling, EOS token, normalisation and query prompt."""
    from sentence_transformers import SentenceTransformer

    exported = SentenceTransformer(str(results / "export"), device="cpu")
    trainer = TextEncoder.load(str(results / "4_merge"), precision="fp32", device="cpu")
    prompts = [format_query(DEFAULT_INSTRUCTION, text) for text in TEXTS]
    for texts, name in ((TEXTS, "document"), (prompts, "query")):
        vectors = torch.from_numpy(exported.encode(TEXTS, prompt_name=name))
        torch.testing.assert_close(vectors, trainer.encode(texts), atol=2e-6, rtol=0)


def test_the_table_has_every_model_at_every_dimension(results: Path) -> None:
    rows = json.loads((results / "6_evaluate" / "results.json").read_text())
    expected = {(model, dim) for model in ("stage_1", "without_merge", "full") for dim in (32, 16)} | {("bm25", None)}
    assert {(row["model"], row["dim"]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(0 <= score <= 1 for row in rows for score in row["scores"].values())
    assert next(row for row in rows if row["model"] == "bm25")["scores"]["ndcg@10"] > 0.9, "the sets' words match"


def test_search_answers_with_documents_of_the_corpus(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = "recipes/tiny/data/test/corpus.jsonl"
    query = "query=what's the capital of Spain, please? (a city)"
    assert main(["search", "model=outputs/tiny/export", f"corpus={corpus}", query, "top_k=3"]) == 0
    assert re.findall(r"^ +(\d) ", capsys.readouterr().out, flags=re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.stem)
def test_a_second_run_finds_every_stage_up_to_date(
    results: Path, stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So run.sh can be started again as it is."""
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.safetensors")}
    assert main(documented_command(stage)) == 0
    assert "up to date" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.safetensors")} == before


def test_the_trained_configuration_lies_beside_the_model(results: Path) -> None:
    text = (results / "1_pretrain" / "config.yaml").read_text()
    assert "path: outputs/tiny/base" in text
    assert "???" not in text


@pytest.mark.slow
def test_run_sh_runs_through_and_again_does_nothing(tmp_path: Path) -> None:
    """The script with a work directory of the user's choice, from another directory."""
    environment = os.environ | {"TINY": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def run() -> str:
        command = [str(RECIPE / "run.sh")]
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    first, second = run(), run()
    assert first.count("up to date") == 0
    assert second.count("up to date") == len(STAGES)
