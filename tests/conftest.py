"""Quiet, single-threaded, offline: what every test starts from."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

from tests.tiers import SLOW_FILES
from tests.tiny import make_tiny_model_directory

torch.set_num_threads(1)  # two OpenMP threads on shared cores spin on barriers


ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what ``tests/tiers.py`` lists as slow; a file that is listed and gone is an error."""
    gone = [name for name in SLOW_FILES if not (ROOT / name).exists()]
    if gone:
        raise pytest.UsageError(f"tests/tiers.py names files that are not there: {', '.join(gone)}")
    for item in items:
        if item.path.is_relative_to(ROOT) and item.path.relative_to(ROOT).as_posix() in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "llama", family="llama", seed=1)
