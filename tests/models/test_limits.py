"""What would be an IndexError or a SafetensorError in the middle of the work is one line before it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.index.inference import TextEncoder
from tests.models.families import make_family
from tests.tiny import make_tiny_model_directory

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1191586416\n"


def train(model: Path, tmp_path: Path, *more: str) -> int:
    data = tmp_path / "pairs.jsonl"
    if not data.exists():
        data.write_text("".join(f'{{"query": "q {n}", "positive": "p {n}"}}\n' for n in range(8)))
    arguments = ["train_embedding", f"model.path={model}", f"data.p.path={data}", "batch_size=4", "steps=1"]
    arguments += ["device=cpu", f"output_dir={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}"]
    return main([*arguments, *more])


def lfs_pointer(model: Path) -> None:
    (model / "model.safetensors").write_text(POINTER)


def truncated(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def more_tokens_than_rows(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["egg", "boiling", "moon"])
    tokenizer.save_pretrained(model)


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lfs_pointer, "git-lfs pointer"),
        (truncated, "its weights cannot be read"),
        (more_tokens_than_rows, "rows. Add rows with"),
        (no_tokenizer, "different texts the same ids"),
    ],
)
def test_a_damaged_model_is_refused_before_anything_is_tokenised(
    damage, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    model = make_tiny_model_directory(tmp_path / "model")
    damage(model)
    assert train(model, tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("ids.bin"))
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(ValueError, match=message):
        TextEncoder.load(str(model), device="cpu")


def test_texts_beyond_learned_positions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_family("GPT-2", tmp_path / "model")
    assert train(model, tmp_path, "lengths.max_document_tokens=2048") == 2
    assert "lengths.max_document_tokens is 2048, but the model has learned only 1024" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_tokens is 8192, but the model has learned only 1024 positions"):
        TextEncoder.load(str(model), max_tokens=8192, device="cpu")
    assert TextEncoder.load(str(model), max_tokens=1024, device="cpu").encode(["x", "y"]).shape == (2, 32)
