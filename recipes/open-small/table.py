"""The ablation's table: means over seeds, and a paired test of our trainer against sentence-transformers'.

    python recipes/open-small/table.py outputs/open-small/ablation

Reads an evaluation whose models are named RUN/SEED. A cell is the mean over seeds of a set's main metric; the last
column is the mean over sets, with the standard deviation over seeds. The test: a query's score is its mean over seeds;
the difference is averaged over queries, then over sets; its interval is a bootstrap over the queries of each set, its
p-value comes from a two-sided sign-flip permutation test.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

OURS, PEER = "weak+sft", "weak+st"
SAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--pairs", nargs="*", default=[f"{OURS}:{PEER}"], help="runs to compare, as in A:B")
    arguments = parser.parse_args()
    rows = json.loads((arguments.evaluation / "results.json").read_text(encoding="utf-8"))
    print(table([row for row in rows if row["set"] != "mean"]))
    lines = (arguments.evaluation / "per_query.jsonl").read_text(encoding="utf-8").splitlines()
    units = [unit for unit in map(json.loads, lines) if unit["set"] != "mean"]
    for pair in arguments.pairs:
        print(comparison(units, *pair.split(":")))


def table(rows: list[dict]) -> str:
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))  # run, seed, set
    for row in rows:
        run, _, seed = row["model"].partition("/")
        scores[run][seed][row["set"]] = row["scores"][row["metric"]]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lines = [["run", "seeds", *sets, "mean"], ["---", "---:", *["---:"] * (len(sets) + 1)]]
    for run, by_seed in scores.items():
        means = [statistics.mean(by_set[name] for name in sets) for by_set in by_seed.values()]
        cells = [f"{statistics.mean(by_set[name] for by_set in by_seed.values()):.4f}" for name in sets]
        spread = f" ± {statistics.stdev(means):.4f}" if len(means) > 1 else ""
        lines.append([run, str(len(means)), *cells, f"{statistics.mean(means):.4f}{spread}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison(units: list[dict], first: str, second: str) -> str:
    """``first`` minus ``second``, per set and over all sets."""
    of_set: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        of_set[unit["set"]][unit["model"].partition("/")[0]].append(unit["values"])
    differences = {name: np.mean(runs[first], axis=0) - np.mean(runs[second], axis=0) for name, runs in of_set.items()}
    rng = np.random.default_rng(0)
    means, chance = np.zeros(SAMPLES), np.zeros(SAMPLES)
    for values in differences.values():
        counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=SAMPLES)
        means += counts @ values / len(values) / len(differences)
        signs = 2 * rng.integers(0, 2, (SAMPLES, len(values)), dtype=np.int8) - 1
        chance += signs @ values / len(values) / len(differences)
    mean = float(np.mean([values.mean() for values in differences.values()]))
    low, high = np.quantile(means, [0.025, 0.975])
    p_value = (1 + np.sum(np.abs(chance) >= abs(mean) - 1e-12)) / (1 + SAMPLES)
    each = ", ".join(f"{name} {values.mean():+.4f}" for name, values in differences.items())
    return f"\n{first} - {second}: {mean:+.4f} [{low:+.4f}, {high:+.4f}], p = {p_value:.4f} ({each})"


if __name__ == "__main__":
    main()
