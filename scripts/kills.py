"""SIGKILL at a random moment, then the same command again: nothing is lost, and the result is a lone run's.

    python scripts/kills.py DIRECTORY [--kills 40] [--seed 0] [--only merge export]

Each round starts one program (``scripts/chaos/world.py``), kills its process group once or twice somewhere in the time
that a lone run takes, and runs the command to its end. What it leaves must equal a lone run's, file by file (but for
times and paths), and everything else in the working directory must be as it was. Exit code 1 where not.
"""

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.chaos.world import import_all, run_program, start_program, tree_state, write_world
from scripts.double_starts import commands, result_of

_OWN = ("out", "cache", "home", "outputs")


def kill_and_continue(name: str, directory: Path, seconds: float, lone: dict[str, str], draw: random.Random) -> str:
    """One round.

    Args:
        name: of the program.
        directory: a copy of the world; it holds no output.
        seconds: that a lone run takes.
        lone: what it leaves.
        draw: decides when.

    Returns:
        What happened; it begins with "FAULT" where something is wrong.
    """
    before = tree_state(directory, _OWN)
    killed = 0
    for number in range(draw.choice([1, 1, 2])):
        child = start_program(name, commands()[name], directory, directory.with_name(f"{directory.name}_{number}.log"))
        time.sleep(draw.uniform(0.0, 1.1) * seconds)
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            try:
                os.killpg(child, 9)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(child, 9)
            _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    last = run_program(name, commands()[name], directory, 240.0)
    if last.code != 0:
        return f"FAULT: the same command then ends with {last.code}: {last.output[-600:]}"
    after = tree_state(directory, _OWN)
    allowed = {key for key in after if key.startswith((".out", "out."))}  # work and half-written directories beside it
    if touched := sorted(key for key in before.keys() | after.keys() - allowed if before.get(key) != after.get(key)):
        return f"FAULT: touched {touched[:3]}"
    left = result_of(directory / "out")
    if other := sorted(key for key in left.keys() | lone.keys() if left.get(key) != lone.get(key)):
        return f"FAULT: not a lone run's: {other[:3]}"
    return f"killed {killed} times, continued" if killed else "ended before the signal"


def main() -> int:
    """Runs the rounds and prints a table.

    Returns:
        1 if a round went wrong.
    """
    parser = argparse.ArgumentParser(description="SIGKILL at random moments")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=40, help="rounds in which a process was killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", MPLBACKEND="agg")
    base = chosen.directory.resolve()
    base.mkdir(parents=True, exist_ok=True)
    import_all()
    if not (base / "world").exists():
        write_world(base / "world")
    draw = random.Random(chosen.seed)
    names = chosen.only or list(commands())
    lone: dict[str, tuple[dict[str, str], float]] = {}
    outcomes: Counter[tuple[str, str]] = Counter()
    number = num_killed = 0
    while num_killed < chosen.kills:
        name = names[number % len(names)]
        directory = base / f"{name}_{number:03d}"
        number += 1
        if name not in lone:
            alone = fresh(base, base / f"lone_{name}")
            result = run_program(name, commands()[name], alone, 240.0)
            if result.code != 0:
                raise SystemExit(f"{name}: a lone run ends with {result.code}: {result.output[-600:]}")
            lone[name] = result_of(alone / "out"), result.seconds
        what = kill_and_continue(name, fresh(base, directory), lone[name][1], lone[name][0], draw)
        num_killed += not what.startswith("ended")
        outcomes[name, what] += 1
        if not what.startswith("FAULT"):
            shutil.rmtree(directory)
    for (name, what), count in sorted(outcomes.items()):
        print(f"{name:<18}{count:>4} x {what}", flush=True)
    return int(any(what.startswith("FAULT") for _, what in outcomes))


def fresh(base: Path, directory: Path) -> Path:
    """A copy of the world without caches and output."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(base / "world", directory, ignore=shutil.ignore_patterns("cache", "out"))
    return directory


if __name__ == "__main__":
    sys.exit(main())
