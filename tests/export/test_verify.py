"""verify names what is broken in a folder, and nothing else; a failed export is not published."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, query_prompt
from qwen3emb_train.export import backbone, sentence_transformers, verify_files
from qwen3emb_train.export.checks import (
    BrokenPromiseError,
    Checklist,
    Finding,
    NotApplicableError,
    Status,
    format_checks,
)
from qwen3emb_train.export.verify import VerifyConfig, verify, verify_directory
from qwen3emb_train.model_directory import Prompts
from tests.export.folders import edit, edit_weights, export, failures, read
from tests.tiny import make_tiny_model_directory

FACTS = {"license": "apache-2.0", "base_model": "me/base", "max_tokens": 64}  # short: each test encodes a lot


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model", num_layers=1)
    Prompts({"query": query_prompt(DEFAULT_INSTRUCTION), "document": ""}).write(path)  # as training leaves it
    return path


@pytest.fixture(scope="module")
def whole(model: Path) -> Path:
    return export(model, model.parent / "whole", verify=False, **FACTS)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """An export that a test may damage. Without digests, which would name every damage before its own check does."""
    folder = Path(shutil.copytree(whole, tmp_path / "folder"))
    edit(folder / "run.json", lambda record: record.update(digests={}))
    return folder


def test_a_changed_byte_is_named_by_the_digests_of_the_run(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "folder"))
    assert "as run.json has them" in verify_files.check_written(folder).detail
    edit(folder / "config.json", lambda config: config.update(rope_theta=5.0))
    with pytest.raises(ValueError, match=r"config\.json: its bytes are not those that were written"):
        verify_files.check_written(folder)


def _pool_by_mean(folder: Path) -> None:
    change = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True, "pooling_mode": "mean"}
    edit(folder / "1_Pooling" / "config.json", lambda pooling: pooling.update(change))


def _drop_eos(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))


def _drop_query_prompt(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda config: config["prompts"].pop("query"))


def _double_query_prompt(folder: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["prompts"]["query"] *= 2

    edit(folder / "config_sentence_transformers.json", change)


def _apply_prompt_unasked(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda config: config.update(default_prompt_name="query"))


def _name_another_dtype(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(dtype="bfloat16", torch_dtype="bfloat16"))


def _let_the_dtype_keys_disagree(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(torch_dtype="bfloat16"))


def _lose_a_tensor(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("norm.weight"))


def _make_a_value_nan(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["norm.weight"].fill_(float("nan")))


def _drop_normalize(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps(read(folder / "modules.json")[:2]))


def _keep_truncation_state(folder: Path) -> None:
    state = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(truncation=state))


def _drop_old_pooling_keys(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode": "lasttoken"}')


def _lose_the_card(folder: Path) -> None:
    (folder / "README.md").unlink()


def _lose_the_front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("# A model\n\n```python\n```\n")


def _lose_the_pooling_file(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()


BROKEN = [
    (_drop_eos, "EOS token", "The EOS token is lost"),
    (_pool_by_mean, "pooling", "pools by mean_tokens"),
    (_drop_query_prompt, "prompts applied once", "the prompt 'query' is missing"),
    (_double_query_prompt, "prompts applied once", "instead of"),
    (_apply_prompt_unasked, "prompts applied once", "is applied without being asked for"),
    (_name_another_dtype, "dtype as config.json says", "the weights are stored as float32"),
    (_let_the_dtype_keys_disagree, "dtype as config.json says", "'torch_dtype': 'bfloat16'"),
    (_lose_a_tensor, "transformers loads it", "lack ['norm.weight']"),
    (_make_a_value_nan, "weights whole and finite", "tensor 'norm.weight' holds NaN or infinity"),
    (_drop_normalize, "length 1, cut or not", "nothing normalises them"),
    (_keep_truncation_state, "tokenizer without per-call state", "the truncation settings of a past call"),
    (_drop_old_pooling_keys, "pooling", "lacks the old keys"),
    (_lose_the_pooling_file, "pooling", "No such file"),
    (_lose_the_card, "card", "no README.md"),
    (_lose_the_front_matter, "card", "lacks library_name, pipeline_tag, tags"),
]


@pytest.mark.parametrize(("damage", "name", "message"), BROKEN, ids=[damage.__name__[1:] for damage, _, _ in BROKEN])
def test_verify_names_what_is_broken(folder: Path, damage: Callable[[Path], None], name: str, message: str) -> None:
    """Without any reference: the folder and its run.json are all that verify knows."""
    damage(folder)
    broken = failures(verify(VerifyConfig(path=str(folder))))
    assert name in broken, broken
    assert message in broken[name]
    if damage not in (_drop_eos, _lose_the_pooling_file):  # these two take others with them
        assert list(broken) == [name]


def test_a_whole_folder_passes_and_the_table_says_what_was_seen(whole: Path, model: Path) -> None:
    checks = verify(VerifyConfig(path=str(whole), reference=str(model)))
    assert {check.status for check in checks} == {Status.ok}, format_checks(checks)
    shown = format_checks(checks)
    assert "<|endoftext|> (0) ends every text" in shown
    assert shown.splitlines()[-1] == f"{len(checks)} ok, 0 FAILED, 0 skipped"


def test_a_missing_shard_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "MAX_SHARD_BYTES", 20_000)
    folder = export(model, tmp_path / "sharded", verify=False, **FACTS)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    checks = verify(VerifyConfig(path=str(folder)))
    broken = failures(checks)
    assert list(broken) == ["weights whole and finite", "bytes as they were written"]
    assert f"names the shard {shard.name}, which is missing" in broken["weights whole and finite"]
    skipped = {check.name for check in checks if check.status is Status.skipped}
    assert "left padding = right = none" in skipped, "what needs the weights cannot be looked at"


# ------------------------------------------------------------------------------------------------ reference, base, LoRA


def _other_weights(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["layers.0.mlp.down_proj.weight"].mul_(3))


def _other_rope(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["rope_parameters"].update(rope_theta=3.0))


def _other_eos_token(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    post_processor = json.dumps(json.loads(text)["post_processor"])
    changed = json.loads(post_processor.replace("<|endoftext|>", "<|im_end|>").replace('"ids": [0]', '"ids": [2]'))
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=changed))


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (_other_weights, "vectors of the reference", "'transformers': 0."),
        (_other_rope, "vectors of the reference", "'Sentence-Transformers': "),
        (_other_eos_token, "EOS token", "with the reference"),
    ],
)
def test_against_its_reference(
    folder: Path, model: Path, damage: Callable[[Path], None], name: str, message: str
) -> None:
    """Broken in a way that is consistent in itself: only the reference tells."""
    damage(folder)
    assert not failures(verify(VerifyConfig(path=str(folder))))
    assert message in failures(verify(VerifyConfig(path=str(folder), reference=str(model))))[name]


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    """A LoRA adapter that does something, and beside it the model with the adapter merged."""
    import peft
    from transformers import AutoModel

    backbone_model = AutoModel.from_pretrained(model, dtype=torch.float32)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="FEATURE_EXTRACTION")
    adapted: Any = peft.get_peft_model(backbone_model, settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    adapted.save_pretrained(model.parent / "adapter")
    shutil.copytree(model, model.parent / "merged")
    adapted.merge_and_unload().save_pretrained(model.parent / "merged")
    return model.parent / "adapter"


def test_a_merged_adapter_is_base_and_adapter_and_not_the_base(model: Path, adapter: Path, tmp_path: Path) -> None:
    folder = export(model.parent / "merged", tmp_path / "out", verify=False, **FACTS)
    checks = verify(VerifyConfig(path=str(folder), base=str(model), adapter=str(adapter)))
    assert not failures(checks)
    assert {"not the base's weights", "base + adapter"} <= {check.name for check in checks}


def test_base_weights_instead_of_merged_ones_are_named(whole: Path, adapter: Path) -> None:
    """The base is the one that the adapter names."""
    broken = failures(verify(VerifyConfig(path=str(whole), adapter=str(adapter))))
    assert list(broken) == ["not the base's weights", "base + adapter"]
    assert "nothing was trained or merged into them" in broken["not the base's weights"]
    assert "they are the base's: the adapter is not merged in" in broken["base + adapter"]


def test_an_adapter_merged_twice_is_noticed(model: Path, adapter: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModel

    twice = Path(shutil.copytree(model, tmp_path / "twice"))
    merged: Any = AutoModel.from_pretrained(model.parent / "merged", dtype=torch.float32)
    peft.PeftModel.from_pretrained(merged, str(adapter)).merge_and_unload().save_pretrained(twice)
    folder = export(twice, tmp_path / "out", verify=False, **FACTS)
    broken = failures(verify(VerifyConfig(path=str(folder), base=str(model), adapter=str(adapter))))
    assert list(broken) == ["base + adapter"]


# ------------------------------------------------------------------------------------------------------ foreign folders


def test_a_model_directory_without_modules_is_looked_at_as_far_as_it_goes(model: Path) -> None:
    checks = verify(VerifyConfig(path=str(model)))
    assert list(failures(checks)) == ["EOS token", "card"], "its tokenizer appends nothing, as Qwen3's"
    skipped = {check.name: check.detail for check in checks if check.status is Status.skipped}
    assert skipped["Sentence-Transformers = transformers"] == "no modules.json: not a Sentence-Transformers folder"


def test_a_bidirectional_mean_pooling_model_of_others_may_be_one(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=64).save_pretrained(
        tmp_path / "bert"
    )
    config = BertConfig(
        vocab_size=6, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    transformer = Transformer(str(tmp_path / "bert"), max_seq_length=64)
    foreign = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean"), Normalize()], device="cpu")
    foreign.save(str(tmp_path / "foreign"))
    edit_weights(tmp_path / "foreign", lambda weights: weights.update({"embeddings.position_ids": torch.arange(64)}))
    checks = verify(VerifyConfig(path=str(tmp_path / "foreign")))
    assert not {name for name in failures(checks) if name != "card"}, format_checks(checks)
    skipped = {check.name: check.detail for check in checks if check.status is Status.skipped}
    assert "as a model that reads in both directions may" in skipped["pooling"]
    assert skipped["prompts applied once"] == "the folder names no prompts"


# ------------------------------------------------------------------------------------------------- program and export


def test_the_program_prints_the_table_and_exits_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["verify", f"path={folder}"]) == 0
    assert "0 FAILED" in capsys.readouterr().out
    _pool_by_mean(folder)
    assert main(["verify", f"path={folder}"]) == 1
    assert "pooling                               FAILED   pools by mean_tokens" in capsys.readouterr().out
    assert main(["verify", f"path={tmp_path / 'nothing'}"]) == 2
    assert "path" in capsys.readouterr().err


def test_a_failed_export_is_not_published(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sentence_transformers.write_modules

    def damaged(directory: Path, *arguments: Any) -> None:
        write(directory, *arguments)
        _pool_by_mean(directory)

    monkeypatch.setattr(sentence_transformers, "write_modules", damaged)
    with pytest.raises(ValueError, match=r"it was not published(.|\n)*pooling +FAILED"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_sentence_transformers_applies_is_compared_not_what_is_written(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer.encode

    def applying_twice(self: Any, texts: list[str], prompt_name: str | None = None, **settings: Any) -> Any:
        if prompt_name is None:
            return original(self, texts, **settings)
        return original(self, texts, prompt=self.prompts[prompt_name] * 2, **settings)

    monkeypatch.setattr(SentenceTransformer, "encode", applying_twice)
    assert "the prompt 'query' is applied twice" in failures(verify_directory(whole))["prompts applied once"]


def test_without_sentence_transformers_its_checks_are_skipped(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    checks = {check.name: check for check in verify(VerifyConfig(path=str(whole)))}
    assert checks["Sentence-Transformers = transformers"].detail.startswith("pip install 'qwen3emb-train[export]'")
    assert checks["left padding = right = none"].status is Status.ok
    assert not failures(list(checks.values()))


def test_a_check_that_needs_a_failed_one_is_skipped_and_any_error_is_a_failure() -> None:
    checklist = Checklist()

    def broken() -> Finding:
        raise BrokenPromiseError("bad")

    def not_applicable() -> Finding:
        raise NotApplicableError("nothing there")

    def unexpected() -> Finding:
        raise KeyError("surprise")

    checklist.run("a", broken)
    checklist.run("b", lambda: Finding("fine"), ["a"])
    checklist.run("c", not_applicable)
    checklist.run("d", unexpected, ["c"])
    assert [check.status.value for check in checklist.checks] == ["FAILED", "skipped", "skipped", "FAILED"]
    assert checklist.checks[3].detail == "KeyError: 'surprise'"


def test_one_vector_for_different_texts_fails() -> None:
    from qwen3emb_train.export.checks import BrokenPromiseError
    from qwen3emb_train.export.verify_vectors import check_differences

    vectors = torch.eye(3)
    assert check_differences(vectors, ["a", "b", "c"]).metrics["highest"] == 0
    vectors[2] = 2 * vectors[0]
    with pytest.raises(BrokenPromiseError, match="'a' and 'c' have the same vector"):
        check_differences(vectors, ["a", "b", "c"])
