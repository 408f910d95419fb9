"""The ablation's table: means over seeds, and a paired test that knows a difference from noise."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

TABLE = Path(__file__).resolve().parent.parent.parent / "recipes" / "open-small" / "table.py"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("open_small_table", TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cell_is_the_mean_over_seeds(table: ModuleType) -> None:
    rows = [
        {"model": f"run/{seed}", "set": name, "metric": "ndcg@10", "scores": {"ndcg@10": score, "mrr@10": 9.0}}
        for seed, scores in ((0, (0.2, 0.4)), (1, (0.4, 0.8)))
        for name, score in zip(("a", "b"), scores, strict=True)
    ]
    assert table.table(rows).splitlines()[2] == "| run | 2 | 0.3000 | 0.6000 | 0.4500 ± 0.2121 |"


def test_a_shift_is_found_and_noise_is_not(table: ModuleType) -> None:
    """Sets count equally, however many queries they have; seeds are averaged before queries are compared."""
    dice = random.Random(0)
    noise = {(name, seed): [dice.random() for _ in range(n)] for name, n in (("a", 50), ("b", 400)) for seed in (0, 1)}
    units = [
        {"model": f"{run}/{seed}", "set": name, "values": [value + shift for value in values]}
        for (name, seed), values in noise.items()
        for run, shift in (("one", 0.1 if name == "a" else 0.0), ("two", 0.0))
    ]
    said = table.comparison(units, "one", "two")
    assert "one - two: +0.0500" in said
    assert "(a +0.1000, b +0.0000)" in said
    assert "p = 0.0001" in said
    others = [unit | {"values": [dice.random() for _ in unit["values"]]} for unit in units]
    assert float(table.comparison(others, "one", "two").partition("p = ")[2].partition(" ")[0]) > 0.05
