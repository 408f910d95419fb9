"""The reranker's columns and gradients are those of transformers' causal language model at the last token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.data.reranker_tokens import load_reranker_tokenizer
from qwen3emb_train.models.loading import ModelConfig, load_reranker, loadable_name, save_model
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.reranker import AnswerLogits, YesNoReranker
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

BEGINNING = [*range(20, 60)]
PROMPTS = [[*BEGINNING, 5, 6, 7], [*BEGINNING, 9], [*BEGINNING, *range(100, 130)], [3, 4], [*range(200, 240)]]
KINDS = [("qwen3", True), ("qwen3", False), ("llama", True), ("gemma3", True)]
TOLERANCE = 1e-5  # the models' norms compute in float32


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{'tied' if kind[1] else 'untied'}")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, tied = request.param
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "model", family=family, tied=tied)


def _load(path: Path, **settings: Any) -> YesNoReranker:
    answers = load_reranker_tokenizer(str(path)).answer_ids
    config = ModelConfig(path=str(path), **{name: settings.pop(name) for name in ("lora",) if name in settings})
    return load_reranker(config, answers, **settings)


def _plain(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).train()


def _plain_logits(model: Any) -> torch.Tensor:
    return torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in PROMPTS])


@pytest.mark.parametrize("is_shared", [False, True], ids=["whole", "shared"])
def test_columns_and_gradients_are_those_of_the_plain_model(directory: Path, is_shared: bool) -> None:
    """Cross-entropy over the vocabulary (Eq. 2) is log_total minus the answer's logit."""
    plain, reranker = _plain(directory), _load(directory, over_vocabulary=True).double()
    yes, no = reranker.answer_ids
    logits = _plain_logits(plain)
    tokens = PackedTokens.from_lists(PROMPTS)
    columns = reranker(share_prefixes(tokens) if is_shared else tokens)
    answers = AnswerLogits.of(columns)
    assert answers.log_total is not None
    expected = torch.stack([logits[:, yes], logits[:, no], logits.logsumexp(1)], 1)
    torch.testing.assert_close(columns, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(answers.score, logits[:, yes] - logits[:, no], rtol=0, atol=TOLERANCE)
    labels = torch.tensor([True, False, True, False, False])
    F.cross_entropy(logits, torch.where(labels, yes, no)).backward()
    (answers.log_total - torch.where(labels, answers.yes, answers.no)).mean().backward()
    ours = dict(reranker.named_parameters())
    wanted = dict(plain.named_parameters())
    assert len(ours) == len(wanted)
    for name, parameter in wanted.items():
        torch.testing.assert_close(ours[loadable_name(reranker, name)].grad, parameter.grad, rtol=0, atol=TOLERANCE)


def test_inference_computes_the_two_columns_only(directory: Path) -> None:
    tokens = PackedTokens.from_lists(PROMPTS)
    two, three = (_load(directory, over_vocabulary=over)(tokens) for over in (False, True))
    assert (two.shape, three.shape) == ((5, 2), (5, 3))
    assert AnswerLogits.of(two).log_total is None
    torch.testing.assert_close(two, three[:, :2])


def test_under_autocast_the_head_is_float32(directory: Path) -> None:
    reranker, tokens = _load(directory, over_vocabulary=True), PackedTokens.from_lists(PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        columns, states = reranker(tokens), reranker.last_states(tokens)
    assert columns.dtype is torch.float32
    torch.testing.assert_close(columns[:, 2], (states @ reranker.lm_head.weight.T).logsumexp(1), rtol=0, atol=1e-6)


def test_what_is_saved_is_a_causal_language_model_of_transformers(directory: Path, tmp_path: Path) -> None:
    reranker = _load(directory)
    save_model(reranker, tmp_path / "model")
    stored, config = (
        load_file(tmp_path / "model/model.safetensors"),
        json.loads((tmp_path / "model/config.json").read_text()),
    )
    assert stored.keys() == load_file(directory / "model.safetensors").keys()
    assert ("lm_head.weight" in stored) is not config["tie_word_embeddings"]
    assert config["architectures"] == json.loads((directory / "config.json").read_text())["architectures"]
    with torch.no_grad():
        assert torch.equal(_plain_logits(_plain(tmp_path / "model")), _plain_logits(_plain(directory)))


def test_adapters_are_trained_alone_and_saved_merged(directory: Path, tmp_path: Path) -> None:
    reranker = _load(directory, lora=LoraConfig(rank=4, alpha=8))
    trained = {name for name, parameter in reranker.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    tokens = PackedTokens.from_lists(PROMPTS)
    untrained = reranker(tokens).detach()
    for name, parameter in reranker.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    columns = reranker(tokens).detach()
    assert not torch.allclose(columns, untrained, atol=1e-3), "the adapters act"
    save_model(reranker, tmp_path / "model")
    with torch.no_grad():
        logits = _plain_logits(_plain(tmp_path / "model"))[:, list(reranker.answer_ids)]
    torch.testing.assert_close(columns.double(), logits, rtol=0, atol=1e-4)


def test_a_head_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    path = make_tiny_causal_lm_directory(tmp_path / "model", tied=False)
    weights = load_file(path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights missing or of another shape: \['lm_head\.weight'\]"):
        _load(path)


@pytest.mark.parametrize(("name", "value"), [("final_logit_softcapping", 30.0), ("logit_scale", 0.5)])
def test_what_changes_logits_after_the_head_is_refused(tmp_path: Path, name: str, value: float) -> None:
    path = make_tiny_causal_lm_directory(tmp_path / "model", family="gemma3", num_layers=1)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=rf"The model's {name}={value} changes logits after the head"):
        _load(path)
    (path / "config.json").write_text(json.dumps(config | {"logit_scale": 1.0}))
    assert _load(path)


def test_a_tied_encoder_can_begin_as_a_reranker(tmp_path: Path) -> None:
    """Its head is its embedding, so nothing is missing."""
    path = make_tiny_model_directory(tmp_path / "encoder", num_layers=1)
    reranker = load_reranker(ModelConfig(path=str(path)), (5, 6))
    assert reranker.lm_head.weight is reranker.backbone.get_input_embeddings().weight
