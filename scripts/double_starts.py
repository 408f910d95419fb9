"""Two starts of each program in one output directory, and of two trainings on one new token store.

    python scripts/double_starts.py DIRECTORY [--rounds 50] [--only train_embedding] [--seed 0]

One of the two wins, or waits for the other; the loser says who holds the directory. What is left then equals a lone
run's result, file by file (but for times and paths), and the same command finds it up to date. Exit code 1 where not.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.chaos.world import COMMANDS, SYNTHESIZE, import_all, run_program, start_program, tree_state, write_world

TOKEN_STORE = "one token store"
_WITHOUT = {
    "verify": "writes nothing",
    "search": "writes nothing",
    "plan": "writes nothing",
    "convert_gguf": "needs a real GGUF file",
}
_SAYS = re.compile(r"process \d+ on \S+ has been writing there since|another process writes there|up to date")
_TIME = re.compile(r'\d{4}-\d\d-\d\dT[\d:]+Z|"(evaluation_time|date|start|end)": [\d.e-]+')
# Times, rates and names of temporary places; everything else is equal to the byte.
_NOT_COMPARED = (
    "run.json",
    "metrics.jsonl",
    "health.json",
    "config.yaml",
    ".program",
    "tensorboard",
    "report.html",
    ".lock",
    ".passages.digests",
)


def commands() -> dict[str, list[str]]:
    """The programs that write, with a command for each; the factory only renders its prompts."""
    chosen = {name: list(command) for name, command in COMMANDS.items() if name not in _WITHOUT}
    chosen[SYNTHESIZE] += ["dry_run=true"]
    return chosen


def result_of(output: Path) -> dict[str, str]:
    """What is compared."""
    state = tree_state(output) if output.is_dir() else {}
    for name in state:
        if name.endswith(".md") or (name.startswith("results/") and name.endswith(".json")):  # a card, mteb's results
            state[name] = _TIME.sub("", (output / name).read_text(encoding="utf-8"))
    return {
        name: content
        for name, content in state.items()
        if not any(part in _NOT_COMPARED or part.startswith("digests_") for part in Path(name).parts)
    }


def finish(children: list[int], seconds: float = 240.0) -> list[int]:
    """Exit codes; a child that takes longer is killed."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.killpg(child, 9)
        time.sleep(0.005)
    return [codes[child] for child in children]


def double_start(
    name: str, base: Path, number: int, lone: dict[str, str], lone_seconds: float, draw: random.Random
) -> str:
    """One round.

    Args:
        name: of the program, or ``TOKEN_STORE``.
        base: holds the world.
        number: of the round.
        lone: result of a lone run.
        lone_seconds: that it took: the second start comes within it.
        draw: decides when.

    Returns:
        What happened: "won and said", "both (one waited)", or "FAULT: ..." with why.
    """
    directory = base / f"{name.replace(' ', '_')}_{number:03d}"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(base / "world", directory, ignore=shutil.ignore_patterns("cache", "out"))
    logs = [base / f"{directory.name}_{who}.log" for who in "ab"]
    program = "train_embedding" if name == TOKEN_STORE else name
    outputs = ["out", "out2"] if name == TOKEN_STORE else ["out", "out"]
    arguments = commands()[program]
    children = []
    for log, output in zip(logs, outputs, strict=True):
        given = [part.replace("output_dir=out", f"output_dir={output}") for part in arguments]
        children.append(start_program(program, given, directory, log))
        if len(children) == 1:
            time.sleep(draw.uniform(0.0, min(0.8, lone_seconds)) * draw.choice([0, 1]))
    codes = finish(children)
    said = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
    fault = _fault(name, codes, said)
    for output in dict.fromkeys(outputs):
        if not fault and result_of(directory / output) != lone:
            found = result_of(directory / output)
            different = sorted(key for key in found.keys() | lone.keys() if found.get(key) != lone.get(key))
            fault = f"{output} is not a lone run's: {different[:4]}"
    if not fault and program != SYNTHESIZE:
        again = run_program(program, arguments, directory, 240.0)
        if again.code != 0:
            fault = f"the same command afterwards ends with {again.code}: {again.output[-300:]}"
    if fault:
        return f"FAULT: {fault} ({directory})"
    shutil.rmtree(directory)
    for log in logs:
        log.unlink()
    return "one won, the other said who" if 2 in codes else "both ended well"


def _fault(name: str, codes: list[int], said: list[str]) -> str:
    allowed = (0,) if name == TOKEN_STORE else (0, 2)
    if 0 not in codes or any(code not in allowed for code in codes):
        return f"exit codes {codes}: {[one[-400:] for one in said]}"
    for code, one in zip(codes, said, strict=True):
        if "Traceback" in one:
            return f"traceback: {one[-600:]}"
        if code == 2 and not _SAYS.search(one):
            return f"the loser does not say who holds the directory: {one[-400:]}"
    return ""


def main() -> int:
    """Runs the rounds and prints a table.

    Returns:
        1 if a round went wrong.
    """
    parser = argparse.ArgumentParser(description="double starts of every program")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
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
    num_faults = 0
    for name in chosen.only or [*commands(), TOKEN_STORE]:
        program = "train_embedding" if name == TOKEN_STORE else name
        lone_directory = base / f"lone_{program}"
        shutil.rmtree(lone_directory, ignore_errors=True)
        shutil.copytree(base / "world", lone_directory, ignore=shutil.ignore_patterns("cache", "out"))
        alone = run_program(program, commands()[program], lone_directory, 240.0)
        if alone.code != 0:
            print(f"{name:<18} a lone run ends with {alone.code}: {alone.output[-500:]}", flush=True)
            num_faults += 1
            continue
        lone = result_of(lone_directory / "out")
        outcomes = Counter(
            double_start(name, base, number, lone, alone.seconds, draw) for number in range(chosen.rounds)
        )
        faults = {what: count for what, count in outcomes.items() if what.startswith("FAULT")}
        num_faults += sum(faults.values())
        fine = ", ".join(f"{count} x {what}" for what, count in sorted(outcomes.items()) if what not in faults)
        print(f"{name:<18} {len(lone):>3} files compared; {fine}; {sum(faults.values())} faults", flush=True)
        for what in list(faults)[:3]:
            print(f"    {json.dumps(what)[:1500]}", flush=True)
        shutil.rmtree(lone_directory)
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
