"""Every benchmark runs on a small shape and ends with one JSON object that has a headline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "compile": ["--smoke", "--device", "cpu", "--precision", "fp32"],
    "contrastive_step": ["--smoke", "--device", "cpu", "--precision", "fp32", "--mixes", "medquad"],
    "encode": ["--smoke", "--device", "cpu", "--kinds", "queries"],
    "growth": ["--smoke", "--device", "cpu"],
    "keyed_dropout": ["--device", "cpu", "--tokens", "256", "--dim", "64", "--rounds", "1", "--repeats", "2"],
    "loss_memory": ["--device", "cpu", "--sizes", "64", "--dim", "16"],
    "mfu": ["--smoke"],
    "mining": ["--documents", "300", "--queries", "40", "--rounds", "1", "--sentences", "0"],
    "near_duplicates": ["--texts", "100", "200"],
    "shared_prefix": ["--smoke", "--device", "cpu"],
    "tokenise": ["--megabytes", "0.2", "--processes", "2"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_ends_with_its_figures(name: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / f"{name}.py"), *SMALL[name]]
    finished = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["benchmark"] == name
    assert "headline" in result
