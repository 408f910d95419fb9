"""The ONNX graph gives our vectors for any batch and length, padded on either side."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train import lineage
from qwen3emb_train.export import onnx
from qwen3emb_train.export.onnx import ExportOnnxConfig, embed_with_onnxruntime, export_onnx
from qwen3emb_train.index.inference import TextEncoder
from tests.export.folders import edit, export, least_cosine
from tests.tiny import make_tiny_model_directory

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="pip install 'qwen3emb-train[onnx]'",
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an export, as a user would do it."""
    model = make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model")
    folder = export(model, model.parent / "exported", verify=False)
    export_onnx(ExportOnnxConfig(model=str(folder), output_dir=str(model.parent / "out")))
    return model.parent / "out"


def test_fifty_real_texts_were_compared(graph: Path) -> None:
    record = lineage.read_record(graph)
    assert record is not None
    seen = record.metrics["verification"]
    assert seen["num_texts"] == 50
    assert min(seen["least_cosine_left_padded"], seen["least_cosine_right_padded"]) >= 0.99999


@pytest.mark.parametrize(("count", "words"), [(1, 1), (3, 30), (40, 3)])
def test_any_batch_and_any_length(graph: Path, count: int, words: int) -> None:
    texts = tuple(f"{'word ' * (words * (number % 3 + 1))}{number}" for number in range(count))
    expected = TextEncoder.load(str(graph.parent / "model"), precision="fp32").encode(texts)
    assert least_cosine(embed_with_onnxruntime(graph, texts, "left", texts_per_batch=64), expected) >= 0.99999


def test_a_bidirectional_model_stays_one(tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model")
    edit(model / "config.json", lambda config: config.update(is_causal=False))
    export_onnx(ExportOnnxConfig(model=str(model), output_dir=str(tmp_path / "out")))  # verifies


def test_a_graph_that_differs_is_not_published(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: the graph of another model."""
    model = make_tiny_model_directory(tmp_path / "model", seed=1)

    def write_another(source: Path, file: Path) -> None:
        for part in graph.glob("model.onnx*"):
            shutil.copyfile(part, file.parent / part.name)

    monkeypatch.setattr(onnx, "write_onnx", write_another)
    with pytest.raises(ValueError, match="onnxruntime's vectors differ"):
        export_onnx(ExportOnnxConfig(model=str(model), output_dir=str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_the_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    with pytest.raises(ImportError, match=r"pip install 'qwen3emb-train\[onnx\]'"):
        export_onnx(ExportOnnxConfig(model=str(tmp_path), output_dir=str(tmp_path / "out")))
