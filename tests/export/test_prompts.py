"""An export's query prompt is what stood before queries in training, unless another one is asked for."""

import importlib.util
from pathlib import Path

import pytest

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, query_prompt
from qwen3emb_train.export.checks import BrokenPromiseError
from qwen3emb_train.export.cross_encoder import ExportRerankerConfig, RerankerDtype, export_reranker
from qwen3emb_train.export.gguf import ExportGgufConfig, export_gguf
from qwen3emb_train.export.verify import VerifyConfig, verify
from qwen3emb_train.export.verify_prompts import TrainedQueryPrompt, check_trained_prompt
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.model_directory import Prompts
from tests.export.folders import edit, export, read
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

CHECK = "query prompt of training"
OWN = query_prompt("Find code")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model_directory(tmp_path / "model", num_layers=1)


def _prompts(folder: Path) -> dict[str, str]:
    found: dict[str, str] = read(folder / "config_sentence_transformers.json")["prompts"]
    return found


def _row(folder: Path, **settings: str) -> tuple[str, str]:
    found = {check.name: (check.status.value, check.detail) for check in verify(VerifyConfig(str(folder), **settings))}
    return found[CHECK]


def test_trained_prompts_are_the_exports_and_verify_has_a_row(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Prompts({"query": OWN, "document": "", "code": OWN, "found": ""}).write(model)
    folder = export(model, tmp_path / "export")
    assert _prompts(folder) == {"query": OWN, "document": "", "code": OWN, "found": ""}
    assert "Find code" in (folder / "README.md").read_text()
    assert _row(folder) == ("ok", repr(OWN))
    again = export(folder, tmp_path / "again", verify=False)
    assert _prompts(again) == _prompts(folder)
    assert not caplog.records
    edit(folder / "config_sentence_transformers.json", lambda config: config["prompts"].update(query=""))
    with pytest.raises(BrokenPromiseError, match="'' stands before queries, but the model was trained with"):
        check_trained_prompt(folder, TrainedQueryPrompt(OWN))


def test_bare_queries_stay_bare(model: Path, tmp_path: Path) -> None:
    Prompts({"query": "", "document": ""}).write(model)
    folder = export(model, tmp_path / "export")
    assert _prompts(folder) == {"query": "", "document": ""}
    assert "Neither queries nor documents carry a prompt." in (folder / "README.md").read_text()
    assert _row(folder) == ("ok", "bare queries")


def test_another_instruction_is_exported_where_it_is_asked_for_and_that_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Prompts({"query": "", "document": "", "code": OWN}).write(model)
    settings = {"query_instruction": "Look up", "instructions": {"code": "Find code", "faq": "Find help"}}
    folder = export(model, tmp_path / "export", **settings)
    assert _prompts(folder) == {
        "query": query_prompt("Look up"), "document": "", "code": OWN, "faq": query_prompt("Find help"),
    }  # fmt: skip
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in said] == [
        "instruction differs from training: query_instruction is 'Look up'",
        "instruction differs from training: instructions.faq is 'Find help'",
    ]
    assert _row(folder) == ("ok", f"differs from training, as asked: {query_prompt('Look up')!r}, trained with ''")


def test_of_a_model_that_says_nothing_the_default_is_exported_and_that_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = export(model, tmp_path / "export")
    assert _prompts(folder) == {"query": query_prompt(DEFAULT_INSTRUCTION), "document": ""}
    assert "(query_instruction=null)" in caplog.text
    assert _row(folder) == ("skipped", "the model does not say what it was trained with")


def test_a_rerankers_instruction_is_that_of_its_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_tiny_causal_lm_directory(tmp_path / "model")
    Prompts({"query": "Find code"}, "query").write(model)
    settings = {"dtype": RerankerDtype.float32, "max_tokens": 512}
    folder = export_reranker(ExportRerankerConfig(str(model), str(tmp_path / "export"), **settings))  # type: ignore[arg-type]
    assert _prompts(folder) == {"query": "Find code"}
    assert _row(folder) == ("ok", "'Find code'")
    assert "instruction" not in caplog.text
    trained, exported = (TextReranker.load(str(path), precision="fp32", device="cpu") for path in (model, folder))
    assert trained.instruction == exported.instruction == "Find code"
    other = ExportRerankerConfig(str(model), str(tmp_path / "other"), instruction="Look up", **settings)  # type: ignore[arg-type]
    assert _row(export_reranker(other)) == (
        "ok",
        "differs from training, as asked: 'Look up', trained with 'Find code'",
    )
    assert "instruction differs from training: instruction is 'Look up'" in caplog.text


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_a_format_without_a_place_for_prompts_has_them_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model_directory(tmp_path / "model", num_layers=1)
    trained = Prompts({"query": OWN, "document": ""})
    trained.write(model)
    file = export_gguf(ExportGgufConfig(str(model), str(tmp_path / "gguf"), verify=False))
    assert Prompts.read(file.parent) == trained
    assert f"before each query: {OWN!r}" in capsys.readouterr().out
