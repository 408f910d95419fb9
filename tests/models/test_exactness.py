"""No family is silently different: it is packed exactly, padded exactly, or refused; docs/families.md says which."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.limits import max_learned_positions
from qwen3emb_train.models.loading import Attention, ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from tests.models.families import FAMILIES, PAGE, TEXTS, how_it_is_read, make_family, states_of_each_alone

ROWS = [line.strip("|").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
DOCUMENTED = {row[0].strip(): row[1].strip() for row in ROWS[1:]}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact_or_refused_as_documented(family: str, tmp_path: Path) -> None:
    path = make_family(family, tmp_path / "model")
    how, reason = how_it_is_read(path)
    assert how == DOCUMENTED[family]
    assert bool(reason) == (how != "packed")
    if how != "refused":
        with torch.no_grad():
            vectors = load_encoder(ModelConfig(path=str(path))).eval()(PackedTokens.from_lists(TEXTS))
        torch.testing.assert_close(vectors, states_of_each_alone(path), rtol=1e-4, atol=1e-4)


def test_the_page_has_every_family() -> None:
    assert list(DOCUMENTED) == list(FAMILIES)


@pytest.mark.parametrize("family", ["gpt-oss", "Gemma 2"])
def test_sinks_and_soft_caps_have_the_gradients_of_padded_texts(family: str, tmp_path: Path) -> None:
    path = make_family(family, tmp_path / "model")
    gradients = []
    for attention in Attention:
        encoder = load_encoder(ModelConfig(path=str(path), attention=attention)).eval()
        assert (encoder.config._attn_implementation == "packed") == (attention is Attention.packed)
        vectors = encoder(PackedTokens.from_lists(TEXTS))
        (vectors * torch.linspace(-1, 1, vectors.shape[1])).sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert any("sinks" in name for name in gradients[0]) == (family == "gpt-oss")
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_leaks_when_packed_is_padded_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_family("Qwen3.5", tmp_path / "model")
    encoder = load_encoder(ModelConfig(path=str(path), lora=LoraConfig(rank=2, dropout=0.1)))
    assert encoder.config._attn_implementation == "sdpa"
    assert not encoder.shares_prefixes
    assert encoder.text_keys is None
    assert "packing is not exact for qwen3_5_text" in capsys.readouterr().err


def test_a_window_longer_than_the_probe_is_tried_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qwen3emb_train.models.packing as packing

    path = make_family("Mistral", tmp_path / "model")
    encoder = load_encoder(ModelConfig(path=str(path)))
    assert encoder.config._attn_implementation == "packed"
    assert encoder.config.sliding_window == 8
    attention = packing.packed_attention

    def without_window(*rows, sliding_window=None, **settings):  # type: ignore[no-untyped-def]
        return attention(*rows, **settings)

    monkeypatch.setattr("qwen3emb_train.models.loading.register_packed_attention", lambda: None)
    from transformers import AttentionInterface

    AttentionInterface.register("packed", without_window)
    try:
        assert load_encoder(ModelConfig(path=str(path))).config._attn_implementation == "sdpa"
    finally:
        AttentionInterface.register("packed", attention)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="t5 is an encoder-decoder"):
        load_encoder(ModelConfig(path=str(make_family("T5", tmp_path / "model"))))


@pytest.mark.parametrize(
    ("family", "positions"), [("GPT-2", 1024), ("OPT", 1024), ("XLM-RoBERTa", 1023), ("BERT", 1024), ("Qwen3", None)]
)
def test_learned_positions_are_counted(family: str, positions: int | None, tmp_path: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(make_family(family, tmp_path / "model"))))
    assert max_learned_positions(encoder) == positions
