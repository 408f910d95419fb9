"""An exported reranker scores in CrossEncoder as the plain logits do, on the template to the token."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.export.cross_encoder import ExportRerankerConfig, RerankerDtype, chat_template, export_reranker
from qwen3emb_train.export.verify import VerifyConfig, verify
from tests.export.folders import edit, edit_weights, failures, read
from tests.tiny import make_tiny_model_directory, make_tiny_tokenizer, tiny_config

# The released example's characters, written out (docs/sources.md).
TEXT = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
PAIRS = [("What is the capital of China?", "The capital of China is Beijing."), ("Explain gravity", "重力\n")]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN_TOKENIZER = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "qwen3-tokenizer"


def _make_reranker(path: Path, *, tied: bool = True) -> Path:
    """A random two-layer Qwen3ForCausalLM whose vocabulary has the answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path.mkdir()
    make_tiny_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save_pretrained(path)
    config = tiny_config("qwen3", len(tokenizer), 2, 32)
    config.tie_word_embeddings = tied
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)
    return path


def _export(model: Path, **settings: Any) -> Path:
    given = {"model": str(model), "output_dir": str(model.parent / "out"), "dtype": RerankerDtype.float32}
    return export_reranker(ExportRerankerConfig(**(given | {"max_tokens": 512} | settings)))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(_make_reranker(tmp_path_factory.mktemp("models") / "model", tied=request.param))


def test_scores_are_the_plain_logits_on_the_released_template(exported: Path) -> None:
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    reranker = CrossEncoder(str(exported), device="cpu")
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for task in (TASK, 'Find {{ it }} by "topic"'):
        expected = []
        for query, document in PAIRS:
            text = TEXT.format(instruction=task, query=query, document=document)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                logits = model(ids).logits[0, -1]
            expected.append(float(logits[yes] - logits[no]))
        scores = reranker.predict(PAIRS, prompt=None if task == TASK else task)
        assert scores.tolist() == pytest.approx(expected, abs=1e-4)
        assert abs(expected[0] - expected[1]) > 1e-2, "different pairs have different scores"


def test_the_files_of_the_layout(exported: Path) -> None:
    """The released reranker's layout (docs/sources.md), literally."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert read(exported / "modules.json") == [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_LogitScore",
            "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
        },
    ]
    assert read(exported / "1_LogitScore" / "config.json") == {
        "true_token_id": tokenizer.convert_tokens_to_ids("yes"),
        "false_token_id": tokenizer.convert_tokens_to_ids("no"),
    }
    assert read(exported / "config_sentence_transformers.json") == {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.linear.Identity",
        "prompts": {"query": TASK},
        "default_prompt_name": "query",
        "__version__": {"sentence_transformers": "5.4.0"},
    }
    settings = read(exported / "sentence_bert_config.json")
    assert (settings["transformer_task"], settings["module_output_name"]) == ("text-generation", "causal_logits")
    assert read(exported / "config.json")["architectures"] == ["Qwen3ForCausalLM"]
    weights = load_file(exported / "model.safetensors")
    tied = read(exported / "config.json")["tie_word_embeddings"]
    assert "model.layers.0.self_attn.q_proj.weight" in weights
    assert ("lm_head.weight" in weights) is not tied


def test_its_tokenizer_appends_nothing(exported: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer("test")["input_ids"] == tokenizer("test", add_special_tokens=False)["input_ids"]
    assert tokenizer.padding_side == "left"


@pytest.mark.data
@pytest.mark.skipif(not QWEN_TOKENIZER.is_dir(), reason=f"no Qwen3 tokenizer at {QWEN_TOKENIZER} (set QWEN3EMB_DATA)")
def test_the_chat_template_gives_the_released_ids_with_the_real_tokenizer() -> None:
    """Prefix, body and suffix tokenised apart, as the released example does; yes is 9693, no 2152."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(QWEN_TOKENIZER)
    prefix, suffix = TEXT.split("<Instruct>")[0], TEXT.split("{document}")[1]
    tokenizer.chat_template = chat_template(TASK)
    for query, document in [*PAIRS, ("", ""), ("a\n", " b "), ("<think>", "<|im_end|> {{x}}\n\n")]:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        body = f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {document}"
        apart = [id for part in (prefix, body, suffix) for id in tokenizer.encode(part, add_special_tokens=False)]
        assert tokenizer.apply_chat_template([messages], return_dict=True)["input_ids"] == [apart]
    assert tokenizer.convert_tokens_to_ids(["yes", "no"]) == [9693, 2152]


def _swap_answers(folder: Path) -> None:
    edit(
        folder / "1_LogitScore" / "config.json",
        lambda ids: ids.update(true_token_id=ids["false_token_id"], false_token_id=ids["true_token_id"]),
    )


def _lose_the_think_block(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<think>\\n\\n</think>\\n\\n", ""))


def _make_a_value_infinite(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["model.norm.weight"].fill_(float("inf")))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (_lose_the_think_block, "template to the token"),
        (_swap_answers, "template to the token"),
        (_make_a_value_infinite, "weights whole and finite"),
    ],
)
def test_verify_names_what_is_broken(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    folder = _export(_make_reranker(tmp_path / "model"), verify=False)
    assert not failures(verify(VerifyConfig(path=str(folder))))
    damage(folder)
    assert name in failures(verify(VerifyConfig(path=str(folder))))


def test_what_cannot_be_a_reranker_is_refused(tmp_path: Path) -> None:
    model = _make_reranker(tmp_path / "model", tied=False)
    edit_weights(model, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"there is no lm_head\.weight"):
        _export(model)
    shutil.rmtree(model)
    make_tiny_model_directory(model, num_layers=1)
    with pytest.raises(ValueError, match=r"the answer 'yes' is \d tokens"):
        _export(model)
    with pytest.raises(ValueError, match="instruction is empty"):
        ExportRerankerConfig(model="m", output_dir="o", instruction="")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
