"""A program's help: every key with its default, its type or choices, and the documentation from its class."""

import re
from textwrap import wrap
from typing import Any

from qwen3emb_train.configuration.config_files import group_options, remark
from qwen3emb_train.configuration.documentation import REQUIRED, Block, Key, read_program
from qwen3emb_train.configuration.program import Program
from qwen3emb_train.configuration.source import read_class

_WIDTH = 120
_COLUMN = 40


def program_help(program: Program) -> str:
    """Summary, example, choices, and all keys: the required ones first, then a paragraph for each block."""
    lines = [
        f"{program.name}: {program.summary}",
        "",
        f"usage: {program.command} [--config-dir DIR --config-name NAME] [--cfg] key=value ...",
        "  --config-dir, --config-name   a recipe's YAML file instead of the defaults below",
        "  --cfg                         print the resulting configuration and stop",
        "",
        "example:",
        *(f"  {line}" for line in program.example.splitlines()),
        *_choices(program),
    ]
    blocks = list(read_program(program).walk())
    required = [key for block in blocks for key in block.keys if key.default is REQUIRED and "NAME" not in key.path]
    if required:
        lines += ["", "required keys:", *(line for key in required for line in _key(key))]
    shown: dict[str, Block] = {}
    for block in blocks:
        lines += _block(block, shown)
    return "\n".join(lines)


def _choices(program: Program) -> list[str]:
    """Choices that fill a whole block: classes with their first sentence, files with their first comment."""
    lines = []
    for group, options in group_options(program).items():
        lines += ["", f"{group}=CHOICE sets the keys {program.groups[group].key}.* together:"]
        for option in options:
            classes = program.groups[group].classes
            about = remark(group, option) or (read_class(classes[option]).summary if option in classes else "")
            lines += _columns(option, _plain(about))
    return lines


def _block(block: Block, shown: dict[str, Block]) -> list[str]:
    """A paragraph of keys; a class with the same defaults is not listed twice."""
    keys = [key for key in block.keys if key.default is not REQUIRED or "NAME" in key.path]
    if not block.path:
        return ["", "keys, with their defaults:", *(line for key in keys for line in _key(key))] if keys else []
    about = _plain(block.meaning or block.kind.summary)
    title = f"{block.path}: {about}" if about else f"{block.path}:"
    if block.choice:
        title = f"{block.path}, with {block.choice}: {_plain(block.kind.summary)}"
    same = shown.setdefault(f"{block.kind.module.name}:{block.kind.name} {sorted(block.values.items())}", block)
    heading = ["", *wrap(title, _WIDTH, subsequent_indent="  ")]
    if same is not block:
        return [*heading, f"  {block.path}.KEY: the keys and defaults of {same.path}.KEY"] if block.keys else heading
    return [*heading, *(line for key in keys for line in _key(key))]


def _key(key: Key) -> list[str]:
    default = "..." if key.default is REQUIRED else written(key.default)
    return _columns(f"{key.path}={default}", f"({key.type}) {_plain(key.meaning)}")


def _plain(text: str) -> str:
    """Documentation without the markup of docstrings, as a sentence."""
    text = text.replace("``", "")
    return text[:1].upper() + text[1:]


def _columns(left: str, right: str) -> list[str]:
    """Two columns; a long left one is on a separate line."""
    first, *rest = wrap(right, _WIDTH - _COLUMN) or [""]
    indent = " " * _COLUMN
    start = f"  {left}".ljust(_COLUMN - 2) + "  "
    head = [f"{start}{first}".rstrip()] if len(start) == _COLUMN else [start.rstrip(), indent + first]
    return [*head, *(indent + line for line in rest)]


def written(value: Any) -> str:
    """A plain value as one types it after ``key=``."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return re.sub(r"e([+-])0+", r"e\1", repr(value)).replace("e+", "e")
        case list():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            return f"{{{', '.join(f'{name}: {written(child)}' for name, child in value.items())}}}"
    return str(value) or '""'
