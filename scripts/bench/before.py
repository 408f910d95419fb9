"""One benchmark at another commit and here, in turn, in one run: did a change make it slower?

    python scripts/bench/before.py d1b3548 synthesis_client.py --items 20000
    python scripts/bench/before.py HEAD~1 contrastive_step.py --rounds 3 --mixes tldr --cpu-seconds
    python scripts/bench/before.py HEAD~1 merging.py --layers 2 --rounds 1 --only seconds

The other commit is checked out into a temporary work tree, and both run with this interpreter, each its own benchmark
and its own packages. Figures are what a benchmark prints: the numbers of its last line (JSON), the seconds in its
tables and rounds ("name  1.234 s"), and the CPU seconds of the whole run. For each, the medians and the ratio of here
over before, turn by turn: above 1 the figure has grown. Turns alternate their order.
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from scripts.bench.rounds import print_result  # noqa: E402

SIDES = ("before", "here")
_CPU = "cpu seconds of the run"
SECONDS = re.compile(r"^(?:\s+|round \d+ )(\S.*?)\s+(\d+\.\d+) s\b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="runs of each side")
    parser.add_argument("--only", nargs="*", default=[], help="figures whose name holds one of these")
    parser.add_argument("commit")
    parser.add_argument("benchmark", help="a file of scripts/bench; further arguments are its own")
    arguments, passed_on = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        before = Path(work) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), arguments.commit], check=True)
        try:
            compare({"before": before, "here": ROOT}, arguments, passed_on)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)


def compare(roots: dict[str, Path], arguments: argparse.Namespace, passed_on: list[str]) -> None:
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(arguments.turns):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            command = [sys.executable, str(roots[side] / "scripts" / "bench" / arguments.benchmark), *passed_on]
            runs[side].append(run(command, roots[side]))
            print(f"turn {turn + 1} {side}: {runs[side][-1][_CPU]:.1f} CPU s", flush=True)
    shared = [name for name in runs["here"][0] if all(name in each for side in SIDES for each in runs[side])]
    chosen = [name for name in shared if not arguments.only or any(part in name for part in arguments.only)]
    ratios = {}
    print(f"{'':<44}{'before':>12}{'here':>12}   here / before (least - largest)")
    for name in chosen:
        values = {side: [each[name] for each in runs[side]] for side in SIDES}
        each = [after / old for old, after in zip(values["before"], values["here"], strict=True) if old]
        if not each:
            continue
        middle = {side: statistics.median(values[side]) for side in SIDES}
        ratios[name] = round(statistics.median(each), 3)
        print(
            f"{name:<44}{middle['before']:>12.3f}{middle['here']:>12.3f}"
            f"   {ratios[name]:.3f} ({min(each):.3f} - {max(each):.3f})"
        )
    print_result("before", ratios.get(_CPU), of=arguments.benchmark, commit=arguments.commit, ratios=ratios)


def run(command: list[str], root: Path) -> dict[str, float]:
    """Every figure that one run printed, by name, and its CPU seconds."""
    before = cpu_seconds()
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True)
    used = cpu_seconds() - before
    if finished.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
    seconds: dict[str, list[float]] = {}
    heading = ""
    for line in finished.stdout.splitlines():
        found = SECONDS.match(line)
        if found:
            seconds.setdefault(f"{heading} {found[1]} seconds".strip(), []).append(float(found[2]))
        elif line and not line.startswith((" ", "{")):
            heading = re.split(r"[ :,]", line)[0]
    figures = {_CPU: used} | {name: statistics.median(each) for name, each in seconds.items()}
    return figures | numbers(json.loads(finished.stdout.splitlines()[-1]))


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """Numeric leaves of a JSON value by dotted name."""
    if isinstance(value, dict):
        return {key: leaf for child, each in value.items() for key, leaf in numbers(each, f"{name}.{child}").items()}
    if isinstance(value, list):
        return {key: leaf for place, each in enumerate(value) for key, leaf in numbers(each, f"{name}.{place}").items()}
    return {name.lstrip("."): float(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
