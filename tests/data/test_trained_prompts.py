"""The prompts that a run records are those of its rows: a row's own instruction counts before its source's."""

import json
from pathlib import Path

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, Template, query_prompt
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.reranker_tokens import load_reranker_tokenizer
from qwen3emb_train.data.token_store import TokenStore, open_token_store
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.data.trained_prompts import trained_prompts
from qwen3emb_train.model_directory import Prompts
from tests.tiny import make_tiny_causal_lm_directory


def _source(path: Path, own: list[str | None], **settings: object) -> SourceConfig:
    rows: list[dict[str, object]] = [
        {"query": f"q{i}", "positive": f"p{i}", "negatives": ["n"]} for i in range(len(own))
    ]
    for row, instruction in zip(rows, own, strict=True):
        row |= {} if instruction is None else {"instruction": instruction}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(str(path), **settings)  # type: ignore[arg-type]


def _recorded(sources: dict[str, SourceConfig], model: Path, cache: Path) -> Prompts:
    tokenizer = load_tokenizer(str(model))
    stores: dict[str, TokenStore] = {
        name: open_token_store(Path(source.path), tokenizer, cache, instruction=source.instruction)
        for name, source in sources.items()
    }
    return trained_prompts(sources, stores, Template.embedding)


def test_the_query_prompt_is_that_of_the_most_rows(tiny_qwen3: Path, tmp_path: Path) -> None:
    rows: list[str | None] = ["A", "B", "B", None, "", "B"]
    found = _recorded({"s": _source(tmp_path / "s.jsonl", rows, instruction="A")}, tiny_qwen3, tmp_path / "cache")
    assert found == Prompts({"query": query_prompt("B"), "document": ""})


def test_rows_without_any_instruction_are_bare(tiny_qwen3: Path, tmp_path: Path) -> None:
    found = _recorded({"s": _source(tmp_path / "s.jsonl", [None, "", "A"])}, tiny_qwen3, tmp_path / "cache")
    assert found == Prompts({"query": "", "document": ""})


def test_sources_that_differ_have_a_prompt_each(tiny_qwen3: Path, tmp_path: Path) -> None:
    sources = {
        "query": _source(tmp_path / "a.jsonl", [None] * 3, instruction="A"),
        "code": _source(tmp_path / "b.jsonl", [None] * 9, instruction="B", max_rows=2),
        "found": _source(tmp_path / "c.jsonl", [None] * 2),
    }
    found = _recorded(sources, tiny_qwen3, tmp_path / "cache")
    assert found == Prompts({
        "query": query_prompt("A"), "document": "",
        "data_query": query_prompt("A"), "code": query_prompt("B"), "found": "",
    })  # fmt: skip


def test_a_rerankers_are_its_instructions_and_the_default_where_there_is_none(tmp_path: Path) -> None:
    tokenizer = load_reranker_tokenizer(str(make_tiny_causal_lm_directory(tmp_path / "model")))
    for number, (source, expected) in enumerate([
        (_source(tmp_path / "a.jsonl", [None, None]), DEFAULT_INSTRUCTION),
        (_source(tmp_path / "b.jsonl", [None, None, "B"], instruction="A"), "A"),
    ]):  # fmt: skip
        store = open_token_store(
            Path(source.path), tokenizer, tmp_path / f"cache{number}", template=Template.reranking,
            instruction=source.instruction,
        )  # fmt: skip
        assert trained_prompts({"s": source}, {"s": store}, Template.reranking) == Prompts({"query": expected}, "query")
