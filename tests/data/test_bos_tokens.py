"""Tokenizers that begin a text with BOS keep it, and get the EOS token behind it, in training and in every reader."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.data.training_data import DataSettings, open_training_data
from tests.tiny import make_tiny_model_directory

BOS = "<|im_start|>"
TEXTS = ["hello world", "x", "北京", "a rather long text with many words"]


def with_bos(path: Path, *, in_sequence: bool, tokenizer_class: str = "PreTrainedTokenizerFast", eos: str = "") -> Path:
    make_tiny_model_directory(path, family="llama")
    backend = Tokenizer.from_file(str(path / "tokenizer.json"))
    template = processors.TemplateProcessing(
        single=f"{BOS} $A {eos}".strip(), pair=f"{BOS} $A {eos} {BOS}:1 $B:1".replace("  ", " "),
        special_tokens=[(token, backend.token_to_id(token)) for token in (BOS, eos) if token],
    )  # fmt: skip
    byte_level = processors.ByteLevel(trim_offsets=True)
    backend.post_processor = processors.Sequence([byte_level, template]) if in_sequence else template
    backend.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": tokenizer_class, "bos_token": BOS, "eos_token": "<|im_end|>", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("in_sequence", [False, True])
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer"])
def test_bos_stays_and_eos_follows_also_when_cut_saved_and_read_again(
    in_sequence: bool, tokenizer_class: str, tmp_path: Path
) -> None:
    path = with_bos(tmp_path / "model", in_sequence=in_sequence, tokenizer_class=tokenizer_class)
    tokenizer = load_tokenizer(str(path))
    if tokenizer_class == "PreTrainedTokenizerFast":
        assert tokenizer.bos_ids == (tokenizer.hf.convert_tokens_to_ids(BOS),)
    ids = tokenizer.tokenize(TEXTS, 512)
    for text, own in zip(TEXTS, ids, strict=True):
        assert own == [*tokenizer.bos_ids, *tokenizer.tokenize_without_eos([text])[0], tokenizer.eos_token_id]
    cut = tokenizer.tokenize(TEXTS, 4)
    assert cut[3] == [*ids[3][:3], tokenizer.eos_token_id]
    tokenizer.save(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXTS)["input_ids"] == ids == load_tokenizer(str(tmp_path / "saved")).tokenize(TEXTS, 512)
    assert again(TEXTS, truncation=True, max_length=4)["input_ids"] == cut


def test_a_template_with_both_is_left_as_it_is(tmp_path: Path) -> None:
    path = with_bos(tmp_path / "model", in_sequence=False, eos="<|im_end|>")
    tokenizer = load_tokenizer(str(path))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.tokenize(TEXTS, 512) == AutoTokenizer.from_pretrained(path)(TEXTS)["input_ids"]


def test_training_batches_hold_the_same_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(with_bos(tmp_path / "model", in_sequence=True)))
    rows = [{"query": f"question {n}", "positive": f"a rather long answer with number {n}"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DataSettings(
        {"s": SourceConfig(path=str(tmp_path / "pairs.jsonl"), instruction="")}, MixtureConfig(), batch_size=4, steps=1,
        seed=0, cache_dir=tmp_path / "tokens",
    )  # fmt: skip
    batch = open_training_data(settings, tokenizer, LengthConfig(512, 6)).batch(0, 0, 1)
    texts = [ids.tolist() for ids in torch.tensor_split(batch.texts.input_ids, batch.texts.cu_seqlens[1:-1])]
    wanted = tokenizer.tokenize([row["query"] for row in rows], 512)
    wanted += tokenizer.tokenize([row["positive"] for row in rows], 6)
    assert sorted(texts) == sorted(wanted)
    with pytest.raises(ValueError, match=r"BOS and EOS tokens \(>= 3\)"):
        open_training_data(settings, tokenizer, LengthConfig(512, 2))


def test_a_directory_without_tokenizer_files_is_refused(tmp_path: Path) -> None:
    path = make_tiny_model_directory(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    with pytest.raises(ValueError, match=r"gives different texts the same ids. Copy the tokenizer files"):
        load_tokenizer(str(path))
