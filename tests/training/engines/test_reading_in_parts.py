"""Every rank reads its own part of the weights: the bits of a whole load, from any files, or a reason why not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.models.loading import LoraConfig, ModelConfig, load_encoder, load_reranker
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.training.checkpoints import load_weights
from qwen3emb_train.training.engines.launch import build_engine, start
from qwen3emb_train.training.optimization import OptimizerConfig
from tests.ranks import run_on_ranks
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
HSDP = FSDP | {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}


def in_several_files(directory: Path, dtype: torch.dtype) -> None:
    """As large models come: shards with an index, here in bf16."""
    path = directory / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    path.unlink()
    places = {name: f"model-{1 + number % 3:05d}-of-00003.safetensors" for number, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, directory / file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models")
    in_several_files(make_tiny_model_directory(base / "bf16", num_layers=3), torch.bfloat16)
    make_tiny_model_directory(base / "gemma", family="gemma3", num_layers=7)
    make_tiny_causal_lm_directory(base / "tied")
    make_tiny_causal_lm_directory(base / "untied", tied=False)
    make_tiny_model_directory(base / "other", num_layers=3, seed=1)
    return base


def load(base: Path, case: str, *, unread: bool) -> TextModel:
    torch.manual_seed(3)
    if case in ("tied", "untied", "untied_lora"):
        lora = LoraConfig(rank=4 if case.endswith("lora") else 0)
        config = ModelConfig(path=str(base / case.removesuffix("_lora")), lora=lora)
        return load_reranker(config, (5, 6), over_vocabulary=True, unread=unread)
    if case == "resumed":  # another model's weights stand for a checkpoint's
        encoder = load_encoder(ModelConfig(path=str(base / "bf16")), unread=unread)
        load_weights(base, encoder)
        return encoder
    settings = {"lora": {"lora": LoraConfig(rank=4, dropout=0.1)}, "cut": {"num_layers": 2}}.get(case, {})
    path = base / (case if case == "gemma" else "bf16")
    return load_encoder(ModelConfig(path=str(path), **settings), unread=unread)  # type: ignore[arg-type]


CASES = ("bf16", "cut", "lora", "gemma", "tied", "untied", "untied_lora", "resumed")


def compare(base: Path, cases: tuple[str, ...]) -> list[str]:
    """Cases in which a weight, a buffer or its dtype differs; every rank looks at its own part."""
    launch = start("cpu")
    wrong = []
    for case in cases:
        engines = []
        for unread in (True, False):
            model = load(base, case, unread=unread)
            assert (model.unread is not None) == unread, case
            assert any(p.is_meta for p in model.parameters()) == unread
            engines.append(build_engine(launch, model, OptimizerConfig(), Precision.fp32, max_grad_norm=1.0).model)
        parts, whole = (dict([*m.named_parameters(), *m.named_buffers()]) for m in engines)
        local = [{name: getattr(t, "_local_tensor", t) for name, t in one.items()} for one in (parts, whole)]
        if local[0].keys() != local[1].keys():
            wrong.append(f"{case}: names")
        for name, tensor in local[1].items():
            found = local[0][name]
            if found.dtype != tensor.dtype or not torch.equal(found, tensor):
                wrong.append(f"{case}: {name}")
            if parts[name].requires_grad != whole[name].requires_grad:
                wrong.append(f"{case}: {name} trained")
    return wrong


@pytest.mark.parametrize(
    ("num_ranks", "launcher", "cases"), [(2, FSDP, CASES), (3, FSDP, ("bf16", "untied")), (4, HSDP, ("lora", "tied"))]
)
def test_parts_are_bit_equal_to_a_whole_load(
    models: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int, launcher: dict[str, str], cases: tuple[str, ...]
) -> None:
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    if not (models / "model").exists():
        (models / "model").symlink_to(models / "other")
    assert run_on_ranks(compare, num_ranks, models, cases) == [[]] * num_ranks


def refusal(base: Path) -> str:
    try:
        model = load_encoder(ModelConfig(path=str(base)), unread=True)
        build_engine(start("cpu"), model, OptimizerConfig(), Precision.fp32, max_grad_norm=1.0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_nan_in_one_ranks_part_is_refused_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_model_directory(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["layers.1.mlp.up_proj.weight"][-1, -1] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    first, second = run_on_ranks(refusal, 2, tmp_path)
    assert first.startswith("OSError: another rank could not read its part of the weights")
    assert second.startswith("ValueError")
    assert "layers.1.mlp.up_proj.weight" in second


def test_what_cannot_be_read_in_parts_is_loaded_whole_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_model_directory(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"].double()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load_encoder(ModelConfig(path=str(tmp_path)), unread=True)
    assert model.unread is None
    assert not any(parameter.is_meta for parameter in model.parameters())
    said = capsys.readouterr().err
    assert "'norm.weight' is stored as F64" in said
    assert "every rank loads the whole model: " in said
