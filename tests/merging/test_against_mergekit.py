"""The same models merged by mergekit 0.1.5 (a test oracle only) and by us: weights within 1e-6."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.merging.config import MergeConfig, MergeMethod
from qwen3emb_train.merging.merge import merge_models
from tests.tiny import make_tiny_model_directory, tiny_config

pytest.importorskip("mergekit", reason="mergekit is not installed (pip install -e '.[dev]'): no parity was tested")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two causal language models near it (mergekit knows them under their prefixed names)."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("models")
    tokenizer = make_tiny_model_directory(root / "tokenizer", num_layers=1)
    directories = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(tiny_config("qwen3", 400, 2, 32), dtype=torch.float32)
        start = {name: torch.randn_like(tensor) for name, tensor in model.named_parameters()}
        for position in range(3):
            for name, parameter in model.named_parameters():
                parameter.data = start[name] + (0.5 * torch.randn_like(parameter) if position else 0.0)
            model.save_pretrained(root / f"m{position}")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(tokenizer / file, root / f"m{position}" / file)
            directories.append(root / f"m{position}")
    return directories


def _mergekit(output: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    configuration = MergeConfiguration.model_validate(settings | {"dtype": "float32"})
    run_merge(configuration, str(output), MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))
    return {name: tensor for file in output.glob("*.safetensors") for name, tensor in load_file(file).items()}


def _ours(output: Path, models: list[Path], **settings: Any) -> dict[str, torch.Tensor]:
    config = MergeConfig(models=[str(path) for path in models], output_dir=str(output), **settings)
    return load_file(merge_models(config) / "model.safetensors")


def _assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    assert set(ours) <= set(theirs) <= {*ours, "lm_head.weight"}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(models: list[Path], tmp_path: Path, t: float) -> None:
    _, first, second = models
    sources = [{"model": str(first)}, {"model": str(second)}]
    settings = {"merge_method": "slerp", "base_model": str(first), "models": sources, "parameters": {"t": t}}
    theirs = _mergekit(tmp_path / "theirs", settings)
    ours = _ours(tmp_path / "ours", [first, second], t=t)
    _assert_equal(ours, theirs)
    assert all(torch.equal(tensor, load_file(first / "model.safetensors")[n]) == (t == 0) for n, tensor in ours.items())


def test_slerp_is_not_what_linear_gives(models: list[Path], tmp_path: Path) -> None:
    """So the comparison above can fail: between these models the arc is far from its chord."""
    ours = _ours(tmp_path / "slerp", models[1:], t=0.5)
    linear = _ours(tmp_path / "linear", models[1:], t=0.5, method=MergeMethod.linear)
    assert all((tensor - linear[name]).abs().max() > 1e-3 for name, tensor in ours.items())


def test_linear_of_three(models: list[Path], tmp_path: Path) -> None:
    weights = [0.5, 0.3, 0.2]
    sources = [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, weights, strict=True)]
    theirs = _mergekit(tmp_path / "theirs", {"merge_method": "linear", "models": sources})
    _assert_equal(_ours(tmp_path / "ours", models, weights=weights, method=MergeMethod.linear), theirs)


def test_karcher_of_three(models: list[Path], tmp_path: Path) -> None:
    """mergekit stops when a step is below 1e-5 of the norm, so it is no closer than that to the mean."""
    settings = {"merge_method": "karcher", "models": [{"model": str(m)} for m in models]}
    theirs = _mergekit(tmp_path / "theirs", settings | {"parameters": {"tol": 1e-7, "max_iter": 100}})
    _assert_equal(_ours(tmp_path / "ours", models, method=MergeMethod.karcher), theirs, atol=1e-5)


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_ties(models: list[Path], tmp_path: Path, density: float) -> None:
    base, *others = models
    weights = [0.6, 0.4]
    sources: list[dict[str, Any]] = [
        {"model": str(m), "parameters": {"weight": w, "density": density}} for m, w in zip(others, weights, strict=True)
    ]
    settings = {"merge_method": "ties", "base_model": str(base), "models": sources, "parameters": {"normalize": True}}
    theirs = _mergekit(tmp_path / "theirs", settings)
    ours = _ours(
        tmp_path / "ours", others, weights=weights, method=MergeMethod.ties, base=str(base), density=density
    )  # fmt: skip
    _assert_equal(ours, theirs)
