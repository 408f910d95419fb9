"""Trackers: metrics.jsonl is whole after a kill; wandb works offline and without an account."""

import json
from pathlib import Path

import pytest

from qwen3emb_train.training.health.vectors import HISTOGRAM_EDGES
from qwen3emb_train.training.tracking import Metric, Tracker, TrackerKind, TrackingConfig, histograms_of


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


def test_a_line_carries_numbers_lists_and_words_and_is_strict_json(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(), {}, steps=5, first_step=0)
    tracker.log(
        1, {"loss": float("nan"), "lr": 0.5, "health/positive_histogram": [1.0, 2.0], "skipped": "rank 1: nq row 7"}
    )
    tracker.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (line,) = tracker.path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "step": 1,
        "loss": None,
        "lr": 0.5,
        "health/positive_histogram": [1.0, 2.0],
        "skipped": "rank 1: nq row 7",
    }


def test_only_counts_are_histograms() -> None:
    metrics: dict[str, Metric] = {"a_histogram": [1.0, 2.0], "b_histogram": "no", "c": [1.0], "loss": 1.0}
    assert histograms_of(metrics) == {"a_histogram": [1.0, 2.0]}


@pytest.mark.parametrize("kind", [TrackerKind.wandb, TrackerKind.tensorboard])
def test_backends_write_offline(tmp_path: Path, kind: TrackerKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = Tracker(tmp_path, TrackingConfig(kind=kind), {"lr": 1.0}, steps=2, first_step=0)
    counts = [float(number) for number in range(40)]
    tracker.log(1, {"loss": 0.5, "health/positive_histogram": counts, "source": "nq"})
    tracker.close()
    pattern = "wandb/offline-run-*/run-*.wandb" if kind is TrackerKind.wandb else "tensorboard/events.*"
    assert list(tmp_path.glob(pattern))
    if kind is TrackerKind.tensorboard:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        (written,) = events.Histograms("health/positive_histogram")
        assert written.histogram_value.bucket == counts
        assert written.histogram_value.bucket_limit == HISTOGRAM_EDGES[1:]
        assert (written.histogram_value.min, written.histogram_value.max) == (-1, 1)
        assert events.Scalars("loss")[0].value == 0.5
