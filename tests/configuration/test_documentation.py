"""Help is read from source text: it must say what the imported classes say, of every key, and say it at once."""

import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf

from data_synth.__main__ import PROGRAM
from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.compose import load
from qwen3emb_train.configuration.documentation import REQUIRED, Block, read_program
from qwen3emb_train.configuration.help import program_help, written
from qwen3emb_train.configuration.program import Program

ROOT = Path(__file__).resolve().parent.parent.parent
EVERY = [*PROGRAMS.values(), PROGRAM]
NAMES = [program.name for program in EVERY]


def defaults(block: Block) -> dict[str, Any]:
    """Keys of a block and of what is below it, without the other choices of a group."""
    found = {key.path: key.default for key in block.keys}
    for below in block.blocks:
        if not below.choice:
            found |= defaults(below)
    return found


def expected(value: Any, path: str = "") -> dict[str, Any]:
    """The same from a configuration object's own class; ``value`` is an OmegaConf node of it."""
    kind = OmegaConf.get_type(value)
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        full = f"{path}.{name}".lstrip(".")
        if OmegaConf.is_missing(value, name):
            found[full] = REQUIRED
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            found |= expected(OmegaConf.structured(get_args(hint)[1]), f"{full}.NAME")
        elif is_dataclass(hint):
            found |= expected(value[name], full)
        else:
            child = value[name]
            plain = OmegaConf.to_container(child) if OmegaConf.is_config(child) else child
            found[full] = plain.value if isinstance(plain, Enum) else plain
    return found


@pytest.mark.parametrize("program", EVERY, ids=NAMES)
def test_keys_and_defaults_are_those_of_the_imported_class(program: Program) -> None:
    unions = {choice.key for choice in program.groups.values() if len(choice.classes) > 1}
    classes = expected(OmegaConf.structured(load(program.schema)))
    without = {path: value for path, value in classes.items() if path.split(".")[0] not in unions}
    assert defaults(read_program(program)) == without
    assert unions or without == classes


@pytest.mark.parametrize("program", EVERY, ids=NAMES)
def test_the_keys_of_every_choice_are_those_of_its_class(program: Program) -> None:
    blocks = {block.choice: block for block in read_program(program).blocks if block.choice}
    chosen = {
        f"{group}={name}": (choice.key, source)
        for group, choice in program.groups.items()
        for name, source in choice.classes.items()
        if len(choice.classes) > 1
    }
    assert blocks.keys() == chosen.keys()
    for name, (key, source) in chosen.items():
        assert defaults(blocks[name]) == expected(OmegaConf.structured(load(source)), key)


@pytest.mark.parametrize("program", EVERY, ids=NAMES)
def test_every_key_is_documented_where_it_is_read(program: Program) -> None:
    """A reader of help sees no class: 'see its class' or 'as in X' tells them nothing."""
    for block in read_program(program).walk():
        assert not block.path or len(block.meaning) > 3, f"{block.path} has no documentation"
        assert block.meaning not in [key.meaning for key in block.keys]
        for key in block.keys:
            assert len(key.meaning) > 3, f"{key.path} has no documentation in {block.kind.name}"
            assert not key.meaning.startswith(("see ", "as in ")), f"{key.path}: {key.meaning}"
            assert "Config``" not in key.meaning, f"{key.path}: {key.meaning}"
            assert "None" not in key.meaning, f"{key.path}: one types null, not None"


@pytest.mark.parametrize("program", EVERY, ids=NAMES)
def test_every_key_is_shown_or_named_by_the_block_that_has_it(program: Program) -> None:
    shown = program_help(program)
    for block in read_program(program).walk():
        for key in block.keys:
            line = f"\n  {key.path}={'...' if key.default is REQUIRED else written(key.default)}"
            assert line in shown or f"\n  {block.path}.KEY: the keys and defaults of " in shown, key.path
    assert all(len(line) <= 120 or "=" in line or "recipes" in line for line in shown.splitlines())


def test_attributes_name_fields_only() -> None:
    """An entry left behind by a renamed field would be documentation that nobody sees."""
    for program in EVERY:
        for block in read_program(program).walk():
            kind = load(f"{block.kind.module.name}:{block.kind.name}")
            assert set(block.kind.fields()) == {field.name for field in fields(kind)}
            own = set(block.kind.documented())
            assert own <= set(block.kind.fields()), f"{block.kind.name}: {own - set(block.kind.fields())}"


@pytest.mark.parametrize("command", [["qwen3emb_train", "train_embedding"], ["qwen3emb_train", "plan"], ["data_synth"]])
def test_help_answers_at_once(command: list[str]) -> None:
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert best < 2.0, "under 0.2 s on an idle machine; the bound leaves room for a busy one"
