"""What is written and shown of a run's health."""

import json
from pathlib import Path

from qwen3emb_train.training.health.alerts import Alerts
from qwen3emb_train.training.health.report import format_health, sparkline, write_health
from qwen3emb_train.training.health.vectors import HISTOGRAM_EDGES
from tests.training.health_setup import train, usual_rows


def test_the_table_shows_a_real_runs_metrics_and_the_troubles_that_last(tiny_qwen3: Path, tmp_path: Path) -> None:
    outcome = train(tiny_qwen3, usual_rows(tmp_path), steps=10, lr=0.0)
    table = format_health(10, outcome.metrics[-1], outcome.monitor_alerts)
    lines = table.splitlines()
    assert lines[0] == "health after step 10"
    assert any(line.startswith("  positives   ") and "|" in line for line in lines)
    assert any(line.startswith("  weights moved") and line.endswith("0.0%") for line in lines)
    assert "  gradient norms: norms " in table
    assert sum(line.startswith("  ! step ") for line in lines) == 2
    assert "lr_zero" in table


def test_a_table_without_metrics_or_problems_says_so() -> None:
    assert format_health(3, {}, Alerts(10)) == "health after step 3\n  no alert"


def test_a_sparkline_shows_every_bin_that_holds_anything() -> None:
    assert sparkline([0.0, 1.0, 500.0, 1000.0]) == " ▁▄█"
    assert sparkline([0.0, 0.0]) == "  "


def test_health_json_holds_metrics_edges_and_everything_said(tmp_path: Path) -> None:
    monitor_alerts = Alerts(10)
    for step in (1, 2, 3):
        monitor_alerts.see(step, {"lr": 0.0})
    metrics = {"health/positive_histogram": [1.0, 2.0], "loss": float("nan"), "lr": 0.0}
    write_health(tmp_path / "health.json", 3, metrics, monitor_alerts)
    write_health(tmp_path / "health.json", 4, metrics, monitor_alerts)
    written = json.loads((tmp_path / "health.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert written["step"] == 4
    assert written["metrics"] == {"health/positive_histogram": [1.0, 2.0], "loss": None, "lr": 0.0}
    assert written["histogram_edges"] == HISTOGRAM_EDGES
    assert [(alert["step"], alert["name"], alert["begins"]) for alert in written["alerts"]] == [(3, "lr_zero", True)]
    assert written["active"] == written["alerts"]
