"""Messages for a configuration that cannot be composed: Hydra's without its class names, and a remedy."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qwen3emb_train.configuration.program import Program

_NOISE = re.compile(r"(object|reference)_type=|_schema\s*$|To append to your|^\s*full_key: ")
_FULL_KEY = re.compile(r"^\s*full_key: (\S+)", flags=re.MULTILINE)
_UNKNOWN = re.compile(r"Key '([^']+)' (?:is )?not in")


def foreign_file(config_name: str | None, program: Program) -> str:
    """For a file that is another program's, or has no defaults list."""
    return (
        f"{config_name}.yaml is no configuration of {program.name}: "
        f"begin it with 'defaults: [/{program.name}, _self_]', or call the program that it is for."
    )


def readable(error: Exception, schema: type, config_name: str | None, program: Program) -> str:
    """Hydra's message without its class names, and the nearest known key.

    Args:
        error: from Hydra or OmegaConf.
        schema: the program's configuration class.
        config_name: the recipe's file without ``.yaml``, for the message; None without a recipe.
        program: for the reference to its help.
    """
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    message = str(error).split("\nConfig search path:")[0]
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.search(line)]
    if cause is not None:
        lines += [line for line in str(cause).splitlines() if not _NOISE.search(line) and line not in lines]
    text = "\n".join(line.strip() for line in lines)
    missing = re.search(r"Could not find '/?(\w+)(/[^']*)?'", text)
    is_foreign = config_name is not None and missing is not None and missing[1] not in program.groups
    if missing and (is_foreign if missing[2] else _is_start(missing[1], program)):
        return foreign_file(config_name, program)
    full = _FULL_KEY.search(f"{error}\n{cause or ''}")
    if wrong := _UNKNOWN.search(text):
        text += _hint((full[1] if full else wrong[1]).split("."), schema)
    elif full and full[1] not in text:
        text = f"{full[1]}: {text}"
    return f"{text}\nAll keys: {program.command} --help"


def _is_start(name: str, program: Program) -> bool:
    """Whether a defaults list begins with it: a program's schema, or the program itself."""
    return name.endswith("_schema") or name == program.name


def unknown_key(path: Sequence[str], place: int, kind: Any, known: Sequence[str], program: Program) -> str:
    """For a key of the command line that is no field.

    Args:
        path: the key's parts.
        place: which part is unknown.
        kind: the type whose field it should be; a type without fields where a key continues below a plain value.
        known: all keys of the program.
        program: for the reference to its help.
    """
    if path[place] == "_target_":
        hint = "\nA configuration sets values, it runs no code."
    else:
        hint = _nearest(path, place, kind, known)
    return f"there is no key {'.'.join(path)!r}.{hint}\nAll keys: {program.command} --help"


def all_keys(node: Any, path: str = "") -> list[str]:
    """Dotted keys of a configuration, with NAME for the names of a user's own."""
    keys: list[str] = []
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return keys
    for name, kind in get_type_hints(OmegaConf.get_type(node)).items():
        full = f"{path}{name}"
        keys.append(full)
        if get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
            keys += all_keys(OmegaConf.structured(get_args(kind)[1]), f"{full}.NAME.")
        elif is_dataclass(kind) and not OmegaConf.is_missing(node, name):
            keys += all_keys(node[name], f"{full}.")
    return keys


def _hint(path: Sequence[str], schema: type) -> str:
    """The nearest key to one that Hydra refused."""
    if path[-1] == "_target_":
        return "\nA configuration sets values, it runs no code."
    defaults = OmegaConf.structured(schema)
    kind: Any = schema
    node: Any = defaults
    for place, name in enumerate(path):
        if get_origin(kind) is dict:
            kind, node = get_args(kind)[1], None
        elif is_dataclass(kind) and name in get_type_hints(kind):
            kind = get_type_hints(kind)[name]
            node = node[name] if isinstance(node, DictConfig) and not OmegaConf.is_missing(node, name) else None
            if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
                kind = OmegaConf.get_type(node)
        else:
            return _nearest(path, place, kind, all_keys(defaults))
    return ""


def _nearest(path: Sequence[str], place: int, kind: Any, known: Sequence[str]) -> str:
    """Near names beside the unknown one; else the same or a near name elsewhere."""
    before, name, after = path[:place], path[place], path[place + 1 :]
    beside = list(get_type_hints(kind)) if is_dataclass(kind) else []
    near = [".".join([*before, close, *after]) for close in difflib.get_close_matches(name, beside, n=2)]
    if not near:
        last = difflib.get_close_matches(path[-1], {key.rpartition(".")[2] for key in known}, n=1)
        near = sorted(key for key in known if last and key.rpartition(".")[2] == last[0])[:3]
    return f"\nDid you mean {' or '.join(near)}?" if near else ""
