"""The EOS token: written into the post-processor, kept through truncation, never confused with eos_token."""

import json
import os
from pathlib import Path

import pytest

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query, query_prompt
from qwen3emb_train.data.tokenization import load_tokenizer

DATA = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data"))
QWEN3_TOKENIZER = DATA / "qwen3-tokenizer"
needs_qwen3 = pytest.mark.skipif(
    not QWEN3_TOKENIZER.is_dir(), reason=f"the real Qwen3 tokenizer is not at {QWEN3_TOKENIZER} (set QWEN3EMB_DATA)"
)


def test_the_query_template_is_the_released_code_s() -> None:
    assert format_query("Find it", "what?") == "Instruct: Find it\nQuery:what?"
    assert format_query(None, "what?") == format_query("", "what?") == "what?"
    assert query_prompt("Find it") + "what?" == format_query("Find it", "what?")


def test_every_text_ends_with_the_eos_token_also_when_cut(tiny_qwen3: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_qwen3))
    whole = tokenizer.tokenize(["a rather long text with many words", "b", ""], 512)
    cut = tokenizer.tokenize(["a rather long text with many words"], 4)
    assert [ids[-1] for ids in whole] == [tokenizer.eos_token_id] * 3
    assert whole[2] == [tokenizer.eos_token_id]
    assert cut[0] == [*whole[0][:3], tokenizer.eos_token_id]


def test_the_eos_token_is_end_of_text_although_eos_is_another(tiny_qwen3: Path) -> None:
    """Qwen3-Embedding appends <|endoftext|> while eos_token is <|im_end|> (docs/sources.md)."""
    tokenizer = load_tokenizer(str(tiny_qwen3))
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.hf.eos_token == "<|im_end|>"
    assert load_tokenizer(str(tiny_qwen3), "<|im_end|>").eos_token_id == tokenizer.hf.eos_token_id


def test_a_saved_tokenizer_appends_the_eos_token_by_itself(tiny_qwen3: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_qwen3))
    tokenizer.hf(["x"], padding="max_length", truncation=True, max_length=3)  # leaves a state that must not be saved
    tokenizer.save(tmp_path)
    texts = ["hello world", "def f(x): return x", "北京"]
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(texts)["input_ids"] == tokenizer.tokenize(texts, 512)
    assert plain(texts, truncation=True, max_length=3)["input_ids"][0][-1] == tokenizer.eos_token_id
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_an_unknown_eos_token_is_refused_with_the_choices(tiny_qwen3: Path) -> None:
    with pytest.raises(ValueError, match=r"'<nope>' is not in the tokenizer's vocabulary.*im_end"):
        load_tokenizer(str(tiny_qwen3), "<nope>")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))


@needs_qwen3
@pytest.mark.data
def test_the_real_qwen3_tokenizer_gives_the_ids_of_the_official_export() -> None:
    """The published tokenizer's ids: "test" -> [1944, 151643]; card query 27 ids; card document 8 ids."""
    tokenizer = load_tokenizer(str(QWEN3_TOKENIZER))
    assert tokenizer.tokenize(["test"], 512) == [[1944, 151643]]
    assert len(tokenizer.tokenize(["a"], 512)[0]) == 2
    query = format_query(DEFAULT_INSTRUCTION, "What is the capital of China?")
    document = "The capital of China is Beijing."
    lengths = [len(ids) for ids in tokenizer.tokenize([query, document], 8192)]
    assert lengths == [27, 8]
    assert tokenizer.hf(query)["input_ids"][-1] == 151643
