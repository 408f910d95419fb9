"""The exported folder gives the trainer's vectors in every reader; its files to the letter are in test_layout.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION
from qwen3emb_train.export import backbone
from qwen3emb_train.export.sentence_transformers import ExportConfig, ExportDtype
from qwen3emb_train.index.inference import TextEncoder
from tests.export.folders import export, least_cosine, read
from tests.tiny import make_tiny_model_directory

TEXTS = ["number of items", "北京是中国的首都。", "x", "Le chat dort sur le canapé. " * 30]


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("model") / request.param, family=request.param)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, tmp_path_factory.mktemp("exports") / model.name, max_tokens=512, license="apache-2.0")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A model directory that a test may damage."""
    return make_tiny_model_directory(tmp_path / "model", num_layers=1)


def test_config_json_is_readable_by_old_and_new_versions(model: Path, exported: Path) -> None:
    config = read(exported / "config.json")
    assert config["architectures"] == [{"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[model.name]]
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["vocab_size"] == read(model / "config.json")["vocab_size"]
    assert config["tie_word_embeddings"] is True
    assert not {"_name_or_path", "use_cache", "id2label", "return_dict"} & config.keys()


def test_weights_are_the_bare_backbone_and_the_embedding_keeps_its_rows(model: Path, exported: Path) -> None:
    source, written = load_file(model / "model.safetensors"), load_file(exported / "model.safetensors")
    assert written.keys() == source.keys()
    assert "embed_tokens.weight" in written
    assert all(torch.equal(written[name], tensor) for name, tensor in source.items())


def test_the_tokenizer_appends_the_eos_token_and_names_the_base_class(exported: Path) -> None:
    from transformers import AutoTokenizer

    settings = read(exported / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "Qwen2Tokenizer"
    assert settings["padding_side"] == "left"
    assert settings["model_max_length"] == 512
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert not {"backend", "is_local", "local_files_only", "extra_special_tokens"} & settings.keys()
    stored = read(exported / "tokenizer.json")
    assert stored["truncation"] is None
    assert stored["padding"] is None
    tokenizer = AutoTokenizer.from_pretrained(exported)
    closing = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for ids in tokenizer(TEXTS)["input_ids"] + tokenizer(TEXTS, truncation=True, max_length=6)["input_ids"]:
        assert ids[-1] == closing
        assert closing not in ids[:-1]
    assert len(tokenizer(TEXTS[-1], truncation=True)["input_ids"]) <= 512


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_transformers_gives_the_trainers_vectors(model: Path, exported: Path, padding_side: str) -> None:
    """Written independently of verify.py: the last position that the mask keeps, batch and single."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported, padding_side=padding_side)
    backbone_model = AutoModel.from_pretrained(exported).eval()
    expected = TextEncoder.load(str(model), precision="fp32").encode(TEXTS)

    def encode(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = backbone_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        return torch.stack([row[mask.bool()][-1] for row, mask in zip(states, batch["attention_mask"], strict=True)])

    assert least_cosine(encode(TEXTS), expected) >= 0.99999
    assert least_cosine(torch.cat([encode([text]) for text in TEXTS]), expected) >= 0.99999


def test_sentence_transformers_gives_the_trainers_vectors_and_the_query_prompt(model: Path, exported: Path) -> None:
    from sentence_transformers import SentenceTransformer

    student = SentenceTransformer(str(exported), device="cpu")
    trainer = TextEncoder.load(str(model), precision="fp32")
    assert student.max_seq_length == 512
    documents = student.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(documents.norm(dim=1), torch.ones(len(TEXTS)))
    assert least_cosine(documents, trainer.encode(TEXTS)) >= 0.99999
    queries = student.encode_query(TEXTS, convert_to_tensor=True)
    prompted = trainer.encode([f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:{text}" for text in TEXTS])
    assert least_cosine(queries, prompted) >= 0.99999
    assert least_cosine(documents, prompted) < 0.999  # the prompt matters, so the line above says something


def test_the_record_holds_what_was_verified(exported: Path) -> None:
    record = lineage.read_record(exported)
    assert record is not None
    seen = record.metrics["verification"]
    # The source of these exports records no prompts.
    assert {name for name, check in seen.items() if check["status"] != "ok"} == {"query prompt of training"}
    assert seen["query prompt of training"]["status"] == "skipped"
    for reader in ("left-padded", "right-padded"):
        assert seen["left padding = right = none"][reader] >= 0.99999
    for reader in ("transformers", "Sentence-Transformers"):
        assert seen["vectors of the reference"][reader] >= 0.99999
    assert seen["prompts applied once"]["query"] >= 0.99999


def test_the_code_on_the_card_runs_as_it_stands(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(exported.parent)
    examples = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    results: list[torch.Tensor] = []
    for example in examples:
        scope: dict[str, Any] = {"print": results.append}
        exec(example, scope)
    assert len(results) == 2
    torch.testing.assert_close(results[0].float(), results[1].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [ExportDtype.bfloat16, ExportDtype.float16])
def test_half_precision_weights_are_the_rounded_ones(damaged: Path, tmp_path: Path, dtype: ExportDtype) -> None:
    exported = export(damaged, tmp_path / "out", dtype=dtype)
    target = getattr(torch, dtype.value)
    source, written = load_file(damaged / "model.safetensors"), load_file(exported / "model.safetensors")
    assert all(torch.equal(written[name], tensor.to(target)) for name, tensor in source.items())
    assert read(exported / "config.json")["dtype"] == dtype.value


def test_a_prefixed_causal_lm_is_exported_bare_and_without_its_head(damaged: Path, tmp_path: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    prefixed = {f"model.{name}": tensor for name, tensor in weights.items()}
    save_file(
        prefixed | {"lm_head.weight": torch.ones(4, 32)}, damaged / "model.safetensors", metadata={"format": "pt"}
    )
    assert load_file(export(damaged, tmp_path / "out") / "model.safetensors").keys() == weights.keys()


def test_large_models_are_sharded_with_an_index(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "MAX_SHARD_BYTES", 20_000)
    exported = export(damaged, tmp_path / "out")  # verified, so all readers load it
    weight_map = read(exported / "model.safetensors.index.json")["weight_map"]
    assert set(weight_map) == set(load_file(damaged / "model.safetensors"))
    assert len(set(weight_map.values())) > 1
    assert not (exported / "model.safetensors").exists()


def test_a_bidirectional_backbone_keeps_its_flag_and_its_vectors(tmp_path: Path) -> None:
    """Two layers: with one, the last token's state is the same either way. The export is verified on the way."""
    damaged = make_tiny_model_directory(tmp_path / "model", num_layers=2)
    config = read(damaged / "config.json")
    causal = TextEncoder.load(str(damaged), precision="fp32").encode(TEXTS)
    (damaged / "config.json").write_text(json.dumps(config | {"is_causal": False}))
    assert least_cosine(TextEncoder.load(str(damaged), precision="fp32").encode(TEXTS), causal) < 0.999
    assert read(export(damaged, tmp_path / "out") / "config.json")["is_causal"] is False


def test_prompts_of_further_tasks_are_written_and_verified(damaged: Path, tmp_path: Path) -> None:
    exported = export(
        damaged,
        tmp_path / "out",
        prompts={"sts": "Similar: "},
        instructions={"code": "Find code"},
        query_instruction="",
    )
    prompts = read(exported / "config_sentence_transformers.json")["prompts"]
    assert prompts == {"query": "", "document": "", "code": "Instruct: Find code\nQuery:", "sts": "Similar: "}
    record = lineage.read_record(exported)
    assert record is not None
    applied = record.metrics["verification"]["prompts applied once"]
    assert min(applied["code"], applied["sts"]) >= 0.99999


@pytest.mark.parametrize("original", ["GPT2Tokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", None])
def test_the_tokenizer_class_is_one_that_old_readers_know(damaged: Path, tmp_path: Path, original: str | None) -> None:
    settings = read(damaged / "tokenizer_config.json") | {"tokenizer_class": original}
    (damaged / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    written = read(export(damaged, tmp_path / "out") / "tokenizer_config.json")["tokenizer_class"]
    allowed = {"GPT2Tokenizer": "GPT2Tokenizer", None: "Qwen2Tokenizer"}  # None: what transformers takes for qwen3
    assert written == allowed.get(original, "PreTrainedTokenizerFast")


def test_more_tokens_than_positions_are_not_promised(damaged: Path, tmp_path: Path) -> None:
    exported = export(damaged, tmp_path / "out", max_tokens=8192)
    assert read(exported / "sentence_bert_config.json")["max_seq_length"] == 1024


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_a_non_finite_weight_is_refused_by_name_and_nothing_is_left(
    damaged: Path, tmp_path: Path, value: float, dtype: str
) -> None:
    weights = load_file(damaged / "model.safetensors")
    weights["norm.weight"][3] = value
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor 'norm.weight' holds NaN or infinity"):
        export(damaged, tmp_path / "out", dtype=ExportDtype(dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_and_a_missing_directory_are_refused(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such directory"):
        export(tmp_path / "nothing", tmp_path / "out")
    (damaged / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="LoRA adapter"):
        export(damaged, tmp_path / "out")


def test_a_second_run_is_up_to_date_until_the_model_changes(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (export(damaged, tmp_path / "out", verify=False) / "run.json").stat().st_mtime_ns
    assert read(tmp_path / "out" / "run.json")["metrics"]["verification"] == {"verified": False}
    export(damaged, tmp_path / "out", verify=False)
    assert "up to date" in capsys.readouterr().out
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == written
    other = make_tiny_model_directory(tmp_path / "other", num_layers=1, seed=1)
    shutil.copyfile(other / "model.safetensors", damaged / "model.safetensors")
    export(damaged, tmp_path / "out", verify=False)
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns != written


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"prompts": {"query": "x"}}, "query_instruction"),
        ({"instructions": {"document": "x"}}, "query_instruction"),
        ({"prompts": {"code": "x"}, "instructions": {"code": "x"}}, "in prompts and in instructions"),
    ],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig(model="m", output_dir="out", **settings)
