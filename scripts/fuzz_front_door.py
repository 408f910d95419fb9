"""Random settings, paths and damaged files over all programs: no traceback, and nothing of a user's is touched.

    python scripts/fuzz_front_door.py DIRECTORY [--cases 2000] [--seed 0] [--only 17] [--seconds 20]

Each case is a command that works (``scripts/chaos/world.py``) with one to three things spoilt: a setting of any key, a
path, an input file, the output directory. It must end with exit code 0, 1, 2 or 75, without a traceback, without having
printed what a terminal obeys, and with every file outside its output directory as it was. Failing cases stay in
DIRECTORY with their commands and logs; exit code 1 if there is one.
"""

import argparse
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.chaos import hostile
from scripts.chaos.world import (
    COMMANDS,
    SYNTHESIZE,
    Result,
    import_all,
    run_program,
    tree_state,
    write_report,
    write_world,
)

ALLOWED_CODES = (0, 1, 2, 75)
# What a run may write: its output, its caches, and what lies beside the output under the output's name.
_WRITTEN = (
    "out",
    "cache",
    "outputs",
    "home",
    "out.work",
    "out.evaluations",
    ".out.lock",
    ".out.writing",
    "config.yaml",
)
_KEYS_OF_PLACES = ("cache_dir", "work_dir", "json_path")  # besides output_dir: a run may add files there
_OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\x1b(?!\\[A)")  # tqdm moves up a line


def all_keys() -> dict[str, list[tuple[str, str]]]:
    """Each program's keys with their types, as help has them."""
    from data_synth.__main__ import PROGRAM
    from qwen3emb_train.cli.programs import PROGRAMS
    from qwen3emb_train.configuration.documentation import read_program

    programs = {**PROGRAMS, SYNTHESIZE: PROGRAM}
    return {
        name: [
            (key.path.replace("NAME", "a"), key.type)
            for block in read_program(programs[name]).walk()
            for key in block.keys
        ]
        for name in COMMANDS
    }


class Case:
    """One command and what was spoilt for it.

    Args:
        directory: a copy of the world.
        keys: of all programs.
        draw: decides everything.
    """

    def __init__(self, directory: Path, keys: dict[str, list[tuple[str, str]]], draw: random.Random) -> None:
        self.directory, self.draw = directory, draw
        self.program = draw.choice(list(COMMANDS))
        self.arguments = list(COMMANDS[self.program])
        self._keys = keys[self.program]
        spoil: list[Callable[[], None]] = [
            self._set_key,
            self._set_key,
            self._set_key,
            self._damage,
            self._damage,
            self._damage,
            self._give_path,
            self._give_path,
            self._give_output,
            self._drop,
            self._junk,
            self._fill_output,
            self._write_recipe,
        ]
        for _ in range(draw.choice([1, 1, 1, 2, 2, 3])):
            draw.choice(spoil)()

    def _set_key(self) -> None:
        key, kind = self.draw.choice(self._keys)
        options = kind.replace(" or null", "").split("|")
        pools = [hostile.TEXTS, hostile.NUMBERS, hostile.PATHS] + ([options] * 3 if len(options) > 1 else [])
        if kind.startswith(("integer", "number")):
            pools += [hostile.NUMBERS] * 3
        self._replace(key, self.draw.choice(self.draw.choice(pools)))

    def _give_path(self) -> None:
        keys = [part.partition("=")[0] for part in self.arguments if "in/" in part]
        self._replace(self.draw.choice(keys or ["output_dir"]), self.draw.choice(hostile.PATHS))

    def _give_output(self) -> None:
        self._replace("output_dir", self.draw.choice(hostile.OUTPUTS))

    def _replace(self, key: str, value: str) -> None:
        self.arguments = [part for part in self.arguments if part.partition("=")[0] != key]
        self.arguments.append(f"{key}={value}".replace("\0", ""))

    def _drop(self) -> None:
        if self.arguments:
            self.arguments.pop(self.draw.randrange(len(self.arguments)))

    def _junk(self) -> None:
        self.arguments.append(self.draw.choice(hostile.ARGUMENTS))

    def _damage(self) -> None:
        """Cuts, flips, empties or replaces a file that some program reads."""
        files = sorted(path for path in (self.directory / "in").rglob("*") if path.is_file())
        path = self.draw.choice(files)
        content = bytearray(path.read_bytes())
        how = self.draw.choice(["cut", "flip", "garbage", "garbage", "swap", "grow", "delete", "directory", "json"])
        if how == "cut":
            content = content[: self.draw.randrange(len(content) + 1)]
        elif how == "flip" and content:
            for _ in range(self.draw.choice([1, 8, 64])):
                content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        elif how == "garbage":
            content = bytearray(self.draw.choice(hostile.CONTENTS))
        elif how == "swap":
            content = bytearray(self.draw.choice(files).read_bytes())
        elif how == "grow":
            content += self.draw.choice(hostile.CONTENTS)
        elif how == "json" and path.suffix in (".json", ".jsonl"):
            text = content.decode("utf-8", "replace")
            new = self.draw.choice(hostile.JSON_VALUES)
            places = [found.span(1) for found in re.finditer(r'":\s*("[^"]*"|[-\d.]+|true|false|null)', text)]
            if places:
                first, last = self.draw.choice(places)
                content = bytearray((text[:first] + new + text[last:]).encode("utf-8", "replace"))
        path.unlink()
        if how == "directory":
            path.mkdir()
        elif how != "delete":
            path.write_bytes(content)

    def _fill_output(self) -> None:
        """There is something where the output goes."""
        out = self.directory / "out"
        what = self.draw.choice(["file", "directory", "foreign", "link", "record", "garbage record", "dead lock"])
        if out.is_symlink() or out.exists():
            return
        if what == "file":
            out.write_text("mine")
        elif what == "link":
            out.symlink_to(self.draw.choice(["mine", "in", "loop", "nowhere"]))
        else:
            out.mkdir()
        if what == "foreign":
            (out / "notes.txt").write_text("mine")
        elif what == "record":
            shutil.copytree(self.directory / "in" / "run", out, dirs_exist_ok=True)
        elif what == "garbage record":
            (out / "run.json").write_bytes(self.draw.choice(hostile.CONTENTS))
        elif what == "dead lock":
            (out / ".lock").write_bytes(self.draw.choice(hostile.CONTENTS))

    def _write_recipe(self) -> None:
        key, _ = self.draw.choice(self._keys)
        name = "synthesize" if self.program == SYNTHESIZE else self.program
        bodies = [
            f"defaults: [/{name}, _self_]\n{key.split('.')[0]}: {self.draw.choice(hostile.TEXTS + hostile.NUMBERS)}\n",
            f"{key}: 1\n",
            "a: &a [*a]\n",
            "- 1\n",
            "defaults: 7\n",
            f"defaults: [/{name}, {{override loss: '${{oc.env:HOME}}'}}]\n",
        ]
        recipe = self.directory / "recipe"
        recipe.mkdir(exist_ok=True)
        (recipe / "r.yaml").write_bytes(
            self.draw.choice([body.encode("utf-8", "replace") for body in bodies] + hostile.CONTENTS)
        )
        self.arguments += ["--config-dir", "recipe", "--config-name", "r"]


def faults_of(
    result: Result, before: dict[str, str], after: dict[str, str], output: str, places: list[str]
) -> list[str]:
    """Why a case failed; nothing where it did not.

    Args:
        result: of the program.
        before, after: ``tree_state`` of its working directory.
        output: the output directory, relative to it; the program may add files there.
        places: others that the settings name, where it may add files too.
    """
    faults = []
    if result.code not in ALLOWED_CODES and not (result.was_stopped and result.code in (-9, -15)):
        faults.append(f"exit code {result.code}")
    if "Traceback (most recent call last)" in result.output:
        faults.append("traceback")
    if _OBEYED.search(result.output):
        faults.append("prints control characters")
    changed = {name for name in before if after.get(name) != before[name] and name.split("/")[0] not in _WRITTEN}
    beside = f"{Path(output).parent}/.{Path(output).name}.".removeprefix("./")  # lock and half-written, by design
    out = output.rstrip("/")
    own = (*_WRITTEN, out, f"{out}.work", f"{out}.evaluations", *places)
    new = {
        name
        for name in after.keys() - before.keys()
        if output != "."
        and not name.startswith(beside)
        and not f"{output}/".startswith(f"{name}/")
        and not any(f"{name}/".startswith(f"{one}/") for one in own)
    }
    if touched := sorted(changed | new):
        faults.append(f"touched {touched[:3]}")
    return faults


def main() -> int:
    """Runs the cases and prints a table.

    Returns:
        1 if a case failed.
    """
    parser = argparse.ArgumentParser(description="fuzz the command line of every program")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only the case of this number, whose directory is kept")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which a program gets SIGTERM")
    chosen = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", MPLBACKEND="agg")
    base = chosen.directory.resolve()
    base.mkdir(parents=True, exist_ok=True)
    import_all()
    world = base / "world"
    if not world.exists():
        write_world(world)
    pristine = tree_state(world, ("cache",))
    keys = all_keys()
    numbers = range(chosen.first, chosen.first + chosen.cases) if chosen.only is None else [chosen.only]
    codes: Counter[tuple[str, str]] = Counter()
    failed: list[dict[str, object]] = []
    for number in numbers:
        directory = base / f"case_{number:05d}"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(world, directory, ignore=shutil.ignore_patterns("cache"))
        (directory / "link").symlink_to("mine")
        (directory / "loop").symlink_to("loop")
        case = Case(directory, keys, random.Random(f"{chosen.seed}/{number}"))
        given = [part.partition("=")[2] for part in case.arguments if part.startswith("output_dir=")]
        output = os.path.relpath(directory / (given or ["out"])[-1].strip("'\""), directory)
        output = os.path.relpath(os.path.realpath(directory / output), directory)  # a link that was there is followed
        foreign = {} if _is_ours(directory / "out") else tree_state(directory / "out")
        before = tree_state(directory)
        result = run_program(case.program, case.arguments, directory, chosen.seconds)
        places = [
            os.path.relpath(directory / value.strip("'\""), directory)
            for key, _, value in (part.partition("=") for part in case.arguments)
            if key in _KEYS_OF_PLACES
        ]
        faults = faults_of(result, before, tree_state(directory), output, places)
        kept = tree_state(directory / "out") if (directory / "out").is_dir() else {}
        if lost := sorted(name for name in foreign if name != ".lock" and kept.get(name) != foreign[name]):
            faults.append(f"touched {lost[:3]} in out")
        codes[case.program, "stopped" if result.was_stopped else str(result.code)] += 1
        if faults:
            failed.append({"case": number, "faults": faults, "program": case.program, "arguments": case.arguments})
            print(f"case {number}: {', '.join(faults)}: {case.program} {case.arguments!r}", flush=True)
        elif chosen.only is None:
            shutil.rmtree(directory)
            directory.with_name(f"{directory.name}.log").unlink()
    if tree_state(world, ("cache",)) != pristine:
        failed.append({"case": -1, "faults": ["the world itself was changed"]})
    write_report(base / "failed.jsonl", failed)
    outcomes = sorted({code for _, code in codes})
    print(f"{'program':<18}" + "".join(f"{code:>9}" for code in outcomes))
    for program in COMMANDS:
        print(f"{program:<18}" + "".join(f"{codes[program, code]:>9}" for code in outcomes))
    print(f"{len(failed)} of {len(numbers)} cases failed (seed {chosen.seed}); {base / 'failed.jsonl'}")
    return int(bool(failed))


def _is_ours(directory: Path) -> bool:
    return not directory.exists() or directory.is_symlink() or (directory / "run.json").is_file()


if __name__ == "__main__":
    sys.exit(main())
