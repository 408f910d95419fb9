"""Self positioning: the gradient is the loss's, the descent goes down, and two descents are one."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.merging import self_positioning
from qwen3emb_train.merging.inputs import open_model
from qwen3emb_train.merging.self_positioning import ProbeConfig, position_by_gradient, read_probe
from tests.tiny import make_tiny_model_directory

WORDS = ["list", "number", "items", "lazy dog", "quick fox", "Hauptstadt", "北京", "canapé"]
EXAMPLES = [
    TrainingExample(f"what about {word}?", (f"This text is about {word}.",), negatives=("A fox jumps.",))
    for word in WORDS
]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model, and two copies that were disturbed, the last one much more."""
    root = tmp_path_factory.mktemp("models")
    start = make_tiny_model_directory(root / "m0", num_layers=1)
    generator = torch.Generator().manual_seed(0)
    found = [start]
    for position, noise in ((1, 0.02), (2, 0.5)):
        copy = Path(shutil.copytree(start, root / f"m{position}"))
        weights = load_file(start / "model.safetensors")
        disturbed = {n: t + noise * torch.randn(t.shape, generator=generator) for n, t in weights.items()}
        save_file(disturbed, copy / "model.safetensors", metadata={"format": "pt"})
        found.append(copy)
    return found


def _encoder(directory: Path) -> TextEncoder:
    return TextEncoder.load(str(directory), precision="fp32", device="cpu")


def test_the_first_step_goes_down_the_losss_slope(directories: list[Path]) -> None:
    """The weights' gradient <G, W_i> against finite differences of the probe loss.

    Small steps: the margin mask of the loss jumps. Adam's first step has the size lr and the gradient's sign.
    """
    models, text_encoder = [open_model(path) for path in directories], _encoder(directories[0])
    encoder, config = text_encoder.encoder, ProbeConfig(temperature=0.1, steps=1)
    path = position_by_gradient(encoder, text_encoder.tokenizer, models, EXAMPLES, config)
    self_positioning._load_mean(encoder, models, path[0].weights)
    self_positioning._probe_loss(encoder, text_encoder.tokenizer, EXAMPLES, config).backward()
    gradient = self_positioning._weight_gradient(encoder, models)

    @torch.no_grad()
    def loss_at(weights: torch.Tensor) -> float:
        self_positioning._load_mean(encoder, models, weights.tolist())
        return float(self_positioning._probe_loss(encoder, text_encoder.tokenizer, EXAMPLES, config))

    equal, step = torch.full((3,), 1 / 3, dtype=torch.float64), 5e-4
    for position in (1, 2):
        direction = torch.zeros(3, dtype=torch.float64)
        direction[0], direction[position] = -1.0, 1.0
        slope = (loss_at(equal + step * direction) - loss_at(equal - step * direction)) / (2 * step)
        assert gradient[position].item() == pytest.approx(slope, rel=0.02, abs=2e-3)
    assert gradient.abs().max() > 0.05
    moved = torch.tensor(path[1].weights).log() - torch.tensor(path[0].weights).log()
    assert torch.equal((moved - moved.mean()).sign(), -(gradient - gradient.mean()).sign().to(moved))


def test_the_descent_lowers_the_loss_and_leaves_equal_shares(directories: list[Path]) -> None:
    models, text_encoder = [open_model(path) for path in directories], _encoder(directories[0])
    config = ProbeConfig(steps=8, lr=0.3, temperature=0.1)
    path = position_by_gradient(text_encoder.encoder, text_encoder.tokenizer, models, EXAMPLES, config)
    assert len(path) == 9
    assert path[0].weights == pytest.approx([1 / 3] * 3)
    assert path[-1].loss < path[0].loss
    assert max(abs(weight - 1 / 3) for weight in path[-1].weights) > 0.05
    assert all(sum(position.weights) == pytest.approx(1.0) for position in path)
    again = _encoder(directories[0])
    assert position_by_gradient(again.encoder, again.tokenizer, models, EXAMPLES, config) == path


def test_the_probe_is_the_start_of_the_file(tmp_path: Path) -> None:
    write_examples(tmp_path / "probe.jsonl", EXAMPLES)
    assert read_probe(ProbeConfig(path=str(tmp_path / "probe.jsonl"), num_examples=3)) == EXAMPLES[:3]
    write_examples(tmp_path / "one.jsonl", EXAMPLES[:1])
    with pytest.raises(ValueError, match="1 examples; a contrastive loss needs at least 2"):
        read_probe(ProbeConfig(path=str(tmp_path / "one.jsonl")))
    write_examples(tmp_path / "sts.jsonl", [*EXAMPLES, replace(EXAMPLES[0], task="sts", scores=None)])
    with pytest.raises(ValueError, match=f"example {len(EXAMPLES) + 1} is of task sts"):
        read_probe(ProbeConfig(path=str(tmp_path / "sts.jsonl")))


@pytest.mark.parametrize("settings", [{"num_examples": 1}, {"steps": 0}, {"lr": 0.0}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"probe.{next(iter(settings))}|probe.lr"):
        ProbeConfig(**settings)  # type: ignore[arg-type]
