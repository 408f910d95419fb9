"""What stands before a query by default, and which settings are reported as different from training."""

import json
from pathlib import Path

import pytest

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, instruction_of, query_prompt
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.model_directory import Prompts
from tests.tiny import make_tiny_causal_lm_directory

TRAINED = Prompts({"query": query_prompt("Find code"), "document": "", "faq": query_prompt("Find help"), "bare": ""})


def _directory(path: Path, prompts: Prompts | None, *, published: bool = False) -> QueryPrompts:
    path.mkdir()
    if prompts is not None:
        prompts.write(path)
    if published:
        (path / "modules.json").write_text("[]")
    return QueryPrompts.of(str(path))


def test_bare_queries_are_not_the_same_as_a_model_that_says_nothing(tmp_path: Path) -> None:
    bare = _directory(tmp_path / "bare", Prompts({"query": "", "document": ""}))
    silent = _directory(tmp_path / "silent", None)
    assert (bare.own, bare.is_bare) == ("", True)
    assert (silent.own, silent.is_bare) == (query_prompt(DEFAULT_INSTRUCTION), False)


def test_null_is_the_models_own_empty_is_none_and_a_text_is_that_text(tmp_path: Path) -> None:
    trained = _directory(tmp_path / "trained", TRAINED)
    assert trained.prompt(None) == query_prompt("Find code")
    assert trained.prompt("") == ""
    assert trained.prompt("Look up") == query_prompt("Look up")
    assert not trained.is_bare
    bare = _directory(tmp_path / "bare", Prompts({"query": "", "document": ""}))
    assert [bare.prompt(instruction) for instruction in (None, "", "Look up")] == ["", "", query_prompt("Look up")]


@pytest.mark.parametrize("prompts", [None, Prompts({"query": "", "document": ""})])
def test_a_published_model_without_a_query_prompt_gets_none_and_that_is_said(
    prompts: Prompts | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = _directory(tmp_path / "published", prompts, published=True)
    assert [published.prompt(instruction) for instruction in (None, "", "Look up")] == ["", "", ""]
    published.report({"a": None, "b": "", "c": "Look up"})
    assert [record.getMessage() for record in caplog.records] == [
        f"c is ignored: {tmp_path / 'published'} has no query prompt, so its queries stay bare."
    ]


def test_a_prompt_of_another_form_is_kept_to_the_letter(tmp_path: Path) -> None:
    published = _directory(tmp_path / "e5", Prompts({"query": "query: ", "passage": "passage: "}), published=True)
    assert published.prompt(None) == "query: "
    assert published.prompt("Look up") == query_prompt("Look up")


def test_only_what_was_not_trained_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = _directory(tmp_path / "trained", TRAINED)
    trained.report({"own": None, "same": "Find code", "another source's": "Find help", "a bare source's": ""})
    assert not caplog.records
    trained.report({"sets.x.instruction": "Look up"})
    assert caplog.records[0].getMessage() == (
        "instruction differs from training: sets.x.instruction is 'Look up', "
        f"{tmp_path / 'trained'} was trained with 'Find code'."
    )
    _directory(tmp_path / "one", Prompts({"query": query_prompt("Find code")})).report({"instruction": ""})
    assert "instruction is none (bare queries)" in caplog.records[1].getMessage()


@pytest.mark.parametrize("instruction", ["", "Find code", "two\nlines", "Query:"])
def test_an_instruction_is_read_back_from_its_prompt(instruction: str) -> None:
    assert instruction_of(query_prompt(instruction) if instruction else "") == instruction
    assert instruction_of("query: ") is None


def test_a_rerankers_own_instruction_is_read_from_its_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_tiny_causal_lm_directory(tmp_path / "model")
    silent = TextReranker.load(str(directory), precision="fp32", device="cpu")
    silent.report("r", {"instruction": None})
    assert "r does not say what it was trained with" in caplog.text
    Prompts({"query": "Find code"}, "query").write(directory)
    told = TextReranker.load(str(directory), precision="fp32", device="cpu")
    assert (silent.instruction, told.instruction) == (DEFAULT_INSTRUCTION, "Find code")
    assert told.max_tokens == silent.max_tokens, "only an export has a limit of its own"
    assert told.score("a", ["b"]).tolist() == silent.score("a", ["b"], "Find code").tolist()
    assert told.score("a", ["b"]).tolist() != silent.score("a", ["b"]).tolist()
    caplog.clear()
    told.report("r", {"a": None, "b": "", "c": "Find code"})
    assert not caplog.records
    told.report("r", {"d": "Look up"})
    assert "instruction differs from training: d is 'Look up', r was trained with 'Find code'." in caplog.text


def test_the_file_is_sentence_transformers_own(tmp_path: Path) -> None:
    TRAINED.write(tmp_path)
    content = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert content == {"prompts": dict(TRAINED.by_name), "default_prompt_name": None}
    assert Prompts.read(tmp_path) == TRAINED
