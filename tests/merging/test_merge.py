"""merge_models: the streamed merge is the in-memory one; inputs that do not fit are refused with the difference."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train import lineage
from qwen3emb_train.data.tokenization import TextTokenizer, load_fast_tokenizer
from qwen3emb_train.merging.config import MergeConfig, MergeDtype, MergeMethod
from qwen3emb_train.merging.merge import merge_models
from qwen3emb_train.merging.methods.slerp import slerp
from qwen3emb_train.model_directory import Prompts
from tests.tiny import make_tiny_model_directory


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return tuple(make_tiny_model_directory(root / f"m{seed}", num_layers=1, seed=seed) for seed in (0, 1))  # type: ignore[return-value]


@pytest.fixture
def models(originals: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies that a test may damage."""
    return tuple(Path(shutil.copytree(path, tmp_path / path.name)) for path in originals)  # type: ignore[return-value]


def _config(models: tuple[Path, Path], output: Path, **settings: object) -> MergeConfig:
    return MergeConfig(models=[str(path) for path in models], output_dir=str(output), **settings)  # type: ignore[arg-type]


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        weights.update(load_file(path))
    return weights


def _rewrite(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _split(directory: Path) -> None:
    """Stores the weights as two shards with an index."""
    weights = _weights(directory)
    names = sorted(weights)
    (directory / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, kept in parts.items():
        save_file({name: weights[name] for name in kept}, directory / file, metadata={"format": "pt"})
    weight_map = {name: file for file, kept in parts.items() for name in kept}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 8_000])
def test_streamed_equals_in_memory(models: tuple[Path, Path], tmp_path: Path, max_shard_bytes: int) -> None:
    """Whatever the layout of the input (one file, shards) and of the output."""
    first, second = (_weights(path) for path in models)
    _split(models[1])
    output = merge_models(_config(models, tmp_path / "out", t=0.3, max_shard_bytes=max_shard_bytes))
    merged = _weights(output)
    assert merged.keys() == first.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, slerp(first[name], second[name], 0.3)), name
    shards = list(output.glob("model-*.safetensors"))
    assert (len(shards) > 2) == (max_shard_bytes == 8_000)
    assert all(len(load_file(shard)) == 1 or shard.stat().st_size < 10_000 for shard in shards)


def test_transformers_loads_the_sharded_merge(models: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoModel

    output = merge_models(_config(models, tmp_path / "out", max_shard_bytes=8_000))
    model, report = AutoModel.from_pretrained(output, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(model.state_dict()["norm.weight"], _weights(output)["norm.weight"])


@pytest.mark.parametrize(("t", "chosen"), [(0.0, 0), (1.0, 1)])
def test_the_endpoints_are_the_inputs_to_the_bit(
    models: tuple[Path, Path], tmp_path: Path, t: float, chosen: int
) -> None:
    merged = _weights(merge_models(_config(models, tmp_path / "out", t=t)))
    assert all(torch.equal(merged[name], tensor) for name, tensor in _weights(models[chosen]).items())


def test_the_dtype_is_the_inputs_unless_another_is_asked_for(models: tuple[Path, Path], tmp_path: Path) -> None:
    same = _weights(merge_models(_config(models, tmp_path / "same")))
    output = merge_models(_config(models, tmp_path / "bf16", dtype=MergeDtype.bfloat16))
    rounded = _weights(output)
    assert {tensor.dtype for tensor in same.values()} == {torch.float32}
    assert all(torch.equal(rounded[name], tensor.bfloat16()) for name, tensor in same.items())
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_stored_copy_of_the_tied_head_is_left_out(models: tuple[Path, Path], tmp_path: Path) -> None:
    weights = _weights(models[1])
    _rewrite(models[1], weights | {"lm_head.weight": weights["embed_tokens.weight"].clone()})
    assert "lm_head.weight" not in _weights(merge_models(_config(models, tmp_path / "out")))


def test_the_directory_is_complete_and_its_record_names_parents_and_weights(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    lineage.write_record(models[0], lineage.new_record("train_embedding", {"seed": 1}, {}))
    output = merge_models(_config(models, tmp_path / "out", t=0.25))
    record = lineage.read_record(output)
    assert record is not None
    assert record.metrics["weights"] == {"model_0": 0.75, "model_1": 0.25}
    assert record.inputs == {f"model_{i}": lineage.digest(path) for i, path in enumerate(models)}
    assert record.parents["model_0"]["program"] == "train_embedding"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (output / name).is_file()


def test_a_second_run_is_up_to_date_until_something_changes(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(models, tmp_path / "out")
    written = (merge_models(config) / "model.safetensors").stat().st_mtime_ns
    merge_models(config)
    assert "up to date" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    merge_models(_config(models, tmp_path / "out", t=0.4))
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns != written


def test_a_different_architecture_is_refused_with_both_values(models: tuple[Path, Path], tmp_path: Path) -> None:
    _edit_config(models[1], num_attention_heads=8, rms_norm_eps=1e-5)
    with pytest.raises(ValueError, match=r"num_attention_heads: 4 and 8; rms_norm_eps: 1e-06 and 1e-05"):
        merge_models(_config(models, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_model_family_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    llama = make_tiny_model_directory(tmp_path / "llama", family="llama", num_layers=1)
    with pytest.raises(ValueError, match="model_type: 'qwen3' and 'llama'"):
        merge_models(_config((models[0], llama), tmp_path / "out"))


def test_another_tokenizer_is_refused_naming_the_section(models: tuple[Path, Path], tmp_path: Path) -> None:
    path = models[1] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"].pop()
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"differ in \['model'\]"):
        merge_models(_config(models, tmp_path / "out"))


def test_a_tokenizer_in_other_words_is_no_other_tokenizer(models: tuple[Path, Path], tmp_path: Path) -> None:
    """A published base's file beside the one that training wrote: merges as text, no EOS token, unknown defaults."""
    path = models[0] / "tokenizer.json"
    TextTokenizer(load_fast_tokenizer(str(models[1]))).save(models[1])
    trained = (models[1] / "tokenizer.json").read_bytes()
    file = json.loads(trained)
    file["model"]["merges"] = [" ".join(merge) for merge in file["model"]["merges"]]
    file["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    path.write_text(json.dumps(file))
    output = merge_models(_config(models, tmp_path / "out"))
    assert (output / "tokenizer.json").read_bytes() == trained  # it ends texts with the EOS token
    file["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=r"differ in \['model', 'normalizer', 'post_processor'\]; .* gets the ids"):
        merge_models(_config(models, tmp_path / "lower"))


def test_per_call_state_of_a_tokenizer_does_not_matter(models: tuple[Path, Path], tmp_path: Path) -> None:
    path = models[1] / "tokenizer.json"
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation": truncation}))
    merge_models(_config(models, tmp_path / "out"))


def test_a_hubs_causal_model_is_merged_with_the_backbone_that_training_wrote(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = _weights(merge_models(_config(models, tmp_path / "expected")))
    head = {"lm_head.weight": torch.zeros(3, 3)}
    _rewrite(models[0], {f"model.{name}": tensor for name, tensor in _weights(models[0]).items()} | head)
    found = _weights(merge_models(_config(models, tmp_path / "out")))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_other_tensor_names_are_refused_naming_the_first_of_both(models: tuple[Path, Path], tmp_path: Path) -> None:
    _rewrite(models[1], {f"decoder.{name}": tensor for name, tensor in _weights(models[1]).items()})
    with pytest.raises(ValueError, match=r"(?s)only in .*'embed_tokens.weight'.*only in .*'decoder.embed_tokens"):
        merge_models(_config(models, tmp_path / "out"))


def test_a_different_shape_is_refused_naming_the_tensor(models: tuple[Path, Path], tmp_path: Path) -> None:
    weights = _weights(models[1])
    _rewrite(models[1], weights | {"norm.weight": torch.ones(31)})
    with pytest.raises(ValueError, match=r"'norm.weight' has shape \(32,\) in .* and \(31,\)"):
        merge_models(_config(models, tmp_path / "out"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_weight_is_refused_naming_tensor_and_model(
    models: tuple[Path, Path], tmp_path: Path, bad: float
) -> None:
    weights = _weights(models[1])
    weights["norm.weight"][3] = bad
    _rewrite(models[1], weights)
    with pytest.raises(ValueError, match=r"m1: tensor 'norm.weight' holds NaN or infinity in 1 of 32"):
        merge_models(_config(models, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_opposite_tensors_are_refused_by_name(models: tuple[Path, Path], tmp_path: Path) -> None:
    _rewrite(models[1], {name: -tensor for name, tensor in _weights(models[0]).items()})
    with pytest.raises(ValueError, match=r"tensor 'embed_tokens.weight': .*opposite directions"):
        merge_models(_config(models, tmp_path / "out"))


def test_an_adapter_beside_a_whole_model_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Whether it is merged into those weights already cannot be seen."""
    (models[0] / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter .* and a whole model"):
        merge_models(_config(models, tmp_path / "out"))


def test_a_missing_shard_is_named(models: tuple[Path, Path], tmp_path: Path) -> None:
    _split(models[0])
    (models[0] / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002.safetensors, which is missing"):
        merge_models(_config(models, tmp_path / "out"))


BAD_SETTINGS = [
    ({"models": ["a"]}, "at least two"),
    ({"models": [], "run": "r", "count": 1}, "count is 1"),
    ({"run": "r"}, "models and run are both given"),
    ({"t": 1.5}, "t is 1.5"),
    ({"group_t": {"mlp": -1.0}}, "group_t is"),
    ({"t": 0.5, "weights": [1.0, 1.0]}, "weights and t are both given"),
    ({"t": 0.5, "layer_t": [0.5]}, "t and layer_t are both given"),
    ({"t": 0.5, "models": ["a", "b", "c"]}, "and there are 3: set weights"),
    ({"weights": [1.0]}, "weights has 1 values for 2 models"),
    ({"weights": [0.0, 0.0]}, "not all of them 0"),
    ({"weights": [-1.0, 2.0]}, "from 0 up"),
    ({"method": MergeMethod.ties}, "set base to the model directory"),
    ({"density": 0.0}, "density is 0.0"),
    ({"max_shard_bytes": 0}, "max_shard_bytes is 0"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS, ids=str)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MergeConfig(**({"models": ["a", "b"], "output_dir": "out"} | settings))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- methods

ALL_METHODS = list(MergeMethod)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models around a common start, in bfloat16 where rounding would show."""
    root = tmp_path_factory.mktemp("three")
    start = make_tiny_model_directory(root / "base", num_layers=3)
    generator = torch.Generator().manual_seed(1)
    models = [start]
    for position in range(3):
        models.append(Path(shutil.copytree(start, root / f"m{position}")))
        weights = _weights(start)
        for name, tensor in weights.items():
            weights[name] = (tensor + 0.1 * torch.randn(tensor.shape, generator=generator)).bfloat16()
        _rewrite(models[-1], weights)
    return models


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_all_weight_on_one_model_is_that_model_to_the_bit(
    three: list[Path], tmp_path: Path, method: MergeMethod, chosen: int
) -> None:
    """With density 1 for those that thin task vectors out: else the model itself is not what is asked for."""
    base, *models = three
    weights = [float(i == chosen) for i in range(3)]
    config = MergeConfig(
        [str(m) for m in models],
        method=method,
        weights=weights,
        base=str(base),
        density=1.0,
        output_dir=str(tmp_path / "out"),
    )
    merged = _weights(merge_models(config))
    assert all(torch.equal(merged[name], tensor) for name, tensor in _weights(models[chosen]).items())


@pytest.mark.parametrize("method", [MergeMethod.karcher, MergeMethod.linear, MergeMethod.ties])
def test_the_order_of_the_models_does_not_matter(three: list[Path], tmp_path: Path, method: MergeMethod) -> None:
    base, *models = (str(path) for path in three)
    common = {"method": method, "base": base, "dtype": MergeDtype.float32}
    one = MergeConfig(models, weights=[0.5, 0.3, 0.2], output_dir=str(tmp_path / "one"), **common)  # type: ignore[arg-type]
    two = MergeConfig(models[::-1], weights=[0.2, 0.3, 0.5], output_dir=str(tmp_path / "two"), **common)  # type: ignore[arg-type]
    first, second = _weights(merge_models(one)), _weights(merge_models(two))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_same_settings_give_the_same_bytes(three: list[Path], tmp_path: Path, method: MergeMethod) -> None:
    """DARE too: what it drops depends on seed, model and tensor name only."""
    base, *models = (str(path) for path in three)
    files = []
    for name, shard_bytes in (("one", 5_000_000_000), ("two", 5_000_000_000), ("three", 20_000)):
        config = MergeConfig(
            models, method=method, base=base, output_dir=str(tmp_path / name), max_shard_bytes=shard_bytes
        )
        files.append(_weights(merge_models(config)))
    assert all(torch.equal(files[0][name], other[name]) for other in files[1:] for name in files[0])


def test_dare_drops_other_entries_for_another_seed_and_tensor(three: list[Path], tmp_path: Path) -> None:
    base, *models = (str(path) for path in three)
    start, dropped = _weights(three[0]), []
    for seed in (0, 1):
        config = MergeConfig(
            models[:2], method=MergeMethod.dare, base=base, seed=seed, density=0.3, output_dir=str(tmp_path / str(seed))
        )
        merged = _weights(merge_models(config))
        dropped.append({name: tensor.float() == start[name].bfloat16().float() for name, tensor in merged.items()})
    up, gate = "layers.0.mlp.up_proj.weight", "layers.0.mlp.gate_proj.weight"
    assert not torch.equal(dropped[0][up], dropped[1][up])
    assert not torch.equal(dropped[0][up], dropped[0][gate])


def test_t_over_the_depth_and_by_group(three: list[Path], tmp_path: Path) -> None:
    """layer_t is linear over the layers, embeddings first, the final norm last; group_t goes before it."""
    _, first, second, _ = three
    config = _config((first, second), tmp_path / "out", layer_t=[0.0, 0.5], group_t={"q_proj": 1.0, "proj": 0.25})
    merged, a, b = _weights(merge_models(config)), _weights(first), _weights(second)
    expected = {"embed_tokens.weight": 0.0, "norm.weight": 0.5, "layers.1.input_layernorm.weight": 0.25}
    expected |= {"layers.0.input_layernorm.weight": 0.0, "layers.2.input_layernorm.weight": 0.5}
    expected |= {"layers.1.self_attn.q_proj.weight": 1.0, "layers.2.mlp.up_proj.weight": 0.25}
    for name, t in expected.items():
        assert torch.equal(merged[name], slerp(a[name], b[name], t, torch.bfloat16)), name


def test_a_group_that_fits_nothing_is_named(models: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"group_t\.mpl: no tensor has it in its name"):
        merge_models(_config(models, tmp_path / "out", group_t={"mpl": 0.5}))


def test_a_runs_checkpoints_are_merged_as_if_they_were_named(three: list[Path], tmp_path: Path) -> None:
    for step, path in zip((10, 20, 30), three[1:], strict=True):
        shutil.copytree(path, tmp_path / "run" / "checkpoints" / f"step_{step:06d}" / "model")
    taken = merge_models(MergeConfig(run=str(tmp_path / "run"), count=3, output_dir=str(tmp_path / "taken")))
    named = merge_models(MergeConfig(models=[str(path) for path in three[1:]], output_dir=str(tmp_path / "named")))
    assert (taken / "model.safetensors").read_bytes() == (named / "model.safetensors").read_bytes()
    record = lineage.read_record(taken)
    assert record is not None
    assert [Path(path).parent.name for path in record.metrics["models"]] == [
        "step_000010",
        "step_000020",
        "step_000030",
    ]


def test_an_export_with_another_pooling_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    """A directory without modules.json is ours, and pools the last token."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for path, kind in kinds.items()]
    (models[1] / "modules.json").write_text(json.dumps(modules))
    (models[1] / "1_Pooling").mkdir()
    pooling = models[1] / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}))
    with pytest.raises(ValueError, match="in different ways: lasttoken and mean"):
        merge_models(_config(models, tmp_path / "out"))
    pooling.write_text(json.dumps({"pooling_mode": "lasttoken"}))
    merge_models(_config(models, tmp_path / "out"))
    (models[1] / "modules.json").write_text(json.dumps([*modules, {"type": "x.Dense", "path": "3_Dense"}]))
    with pytest.raises(ValueError, match=r"has modules \['Dense'\] beside the backbone"):
        merge_models(_config(models, tmp_path / "other"))


def test_a_vocabulary_difference_is_shown(models: tuple[Path, Path], tmp_path: Path) -> None:
    path = models[1] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"2 differ: 'a': \d+ and \d+, 'b'"):
        merge_models(_config(models, tmp_path / "out"))


def test_equal_prompts_are_carried_on_and_a_model_without_any_changes_nothing(
    models: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Prompts.read(merge_models(_config(models, tmp_path / "neither"))) is None
    trained = Prompts({"query": "Instruct: Find code\nQuery:", "document": ""})
    trained.write(models[1])
    assert Prompts.read(merge_models(_config(models, tmp_path / "second"))) == trained
    trained.write(models[0])
    assert Prompts.read(merge_models(_config(models, tmp_path / "both"))) == trained
    assert not caplog.records


def test_of_different_prompts_the_firsts_are_carried_on_and_that_is_said(
    models: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare, trained = (Prompts({"query": query, "document": ""}) for query in ("", "Instruct: Find code\nQuery:"))
    bare.write(models[0])
    trained.write(models[1])
    assert Prompts.read(merge_models(_config(models, tmp_path / "out"))) == bare
    assert f"instruction differs: {models[1]} was trained with" in caplog.text
