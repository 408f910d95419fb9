"""Trackers: metrics.jsonl is whole after a kill; wandb works offline and without an account."""

import json
from pathlib import Path

import pytest

from qwen3emb_train.training.health import verdicts
from qwen3emb_train.training.tracking import Tracker, TrackerKind, TrackingConfig


def test_lines_of_steps_done_again_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    tracker = Tracker(tmp_path, TrackingConfig(), {}, steps=5, first_step=2)
    tracker.log(3, {"loss": 1.5})
    tracker.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "loss": 1.5},
    ]


@pytest.mark.parametrize("kind", [TrackerKind.wandb, TrackerKind.tensorboard])
def test_backends_write_offline(tmp_path: Path, kind: TrackerKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = Tracker(tmp_path, TrackingConfig(kind=kind), {"lr": 1.0}, steps=2, first_step=0)
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    pattern = "wandb/offline-run-*/run-*.wandb" if kind is TrackerKind.wandb else "tensorboard/events.*"
    assert list(tmp_path.glob(pattern))


def test_verdicts_name_collapse_masking_and_missing_negatives() -> None:
    assert verdicts({"positive_cosine": 0.8, "hardest_negative_cosine": 0.5, "masked_share": 0.1}) == []
    assert "collapse" in verdicts({"positive_cosine": 0.999, "hardest_negative_cosine": 0.998})[0]
    assert "masked" in verdicts({"masked_share": 0.7})[0]
    assert "less than one negative" in verdicts({"effective_negatives": 0.5})[0]
