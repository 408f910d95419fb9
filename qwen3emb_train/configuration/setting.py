"""Sets one ``key=value`` in a composed configuration."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from qwen3emb_train.configuration.arguments import ConfigError
from qwen3emb_train.configuration.messages import all_keys, unknown_key
from qwen3emb_train.configuration.program import Program
from qwen3emb_train.configuration.refusals import read_yaml

_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", flags=re.IGNORECASE)


def set_key(composed: DictConfig, override: str, program: Program) -> None:
    """Sets ``a.b.c=value``; entries under a user's own name (``data.mine.path``) are made on the way.

    Text is taken as typed, also in a list or a mapping of texts: only commas divide it (a text that holds one is
    quoted, or in brackets). Other values are in Hydra's grammar, or else in YAML's. A whole mix of a mapping replaces
    the one before; a single entry (``languages.de=0.7``) is added to it.

    Args:
        composed: the configuration; changed in place.
        override: ``key=value``.
        program: whose keys these are.

    Raises:
        ConfigError: there is no such key, or the value cannot be read.
    """
    key, _, raw = override.lstrip("+").partition("=")
    path = key.split(".")
    for group, choice in program.groups.items():
        if key == choice.key and not raw.startswith("{"):
            raise ConfigError(f"{key} is chosen as {group}=NAME.\nAll keys: {program.command} --help")
    kind = _kind_at(composed, path, program)
    if kind in (str, str | None):
        value: Any = None if raw == "null" else _unquoted(raw)
    elif kind in (list[str], list[str] | None) and raw != "null" and not raw.startswith("${"):
        value = _texts(key, raw, "[]")
    elif kind == dict[str, str] and raw.startswith("{"):
        value = _named_texts(key, raw)
    elif _NOT_FINITE.fullmatch(raw):
        raise ConfigError(f"{key} is {raw}: give a finite number (null, where a key allows it, switches it off).")
    else:
        value = _read(key, raw)
    _set(composed, path, value, kind, program)


def default_mixes(node: DictConfig, path: str = "") -> dict[str, Any]:
    """Mappings of plain values that a schema has entries for, by their dotted keys."""
    found: dict[str, Any] = {}
    if node._is_none() or node._is_missing():
        return found
    for name, kind in get_type_hints(OmegaConf.get_type(node)).items():
        if is_dataclass(kind) and not OmegaConf.is_missing(node, name):
            found |= default_mixes(node[name], f"{path}{name}.")
        elif get_origin(kind) is dict and not OmegaConf.is_missing(node, name) and node[name]:
            found[f"{path}{name}"] = OmegaConf.to_container(node[name])
    return found


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _texts(key: str, raw: str, brackets: str) -> list[str]:
    """The elements of ``[a, b]``, as typed and unquoted."""
    if raw[:1] != brackets[0] or raw[-1] != brackets[1]:
        raise ConfigError(f"{key} is several texts: give {key}={brackets[0]}{raw.strip(brackets)}{brackets[1]}.")
    inside = raw[1:-1].strip()
    parts = _divided(inside.removesuffix(","), is_named=brackets == "{}") if inside else []
    if "" in parts:
        raise ConfigError(f"{key}={raw}: one of the texts is empty. Leave it out, or write ''.")
    return [_unquoted(part) for part in parts]


def _named_texts(key: str, raw: str) -> dict[str, str]:
    named = {}
    for part in _texts(key, raw, "{}"):
        name, colon, text = part.partition(":")
        if not colon:
            raise ConfigError(f"{key}={raw}: {part!r} has no name. Give {{NAME: text, ...}}.")
        named[_unquoted(name.strip())] = _unquoted(text.strip())
    return named


def _divided(text: str, *, is_named: bool) -> list[str]:
    """Cut at the commas that stand in no quotes and, where brackets are balanced, in no brackets."""
    parts, depth, begin, position = [], 0, 0, 0
    counts = _are_balanced(text)
    start = re.compile(r"\s*[^:,]+:\s*" if is_named else r"\s*")
    while position < len(text):
        letter = text[position]
        if letter in "'\"" and start.fullmatch(text, begin, position):  # begins a text
            quoted = re.compile(rf".*?{letter}\s*(?=,|$)", re.DOTALL).match(text, position + 1)
            if quoted:  # else an apostrophe
                position = quoted.end()
                continue
        if counts:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[begin:position].strip())
            begin = position + 1
        position += 1
    return [*parts, text[begin:].strip()]


def _are_balanced(text: str) -> bool:
    opened: list[str] = []
    for letter in text:
        if letter in "([{":
            opened.append(letter)
        elif letter in ")]}" and (not opened or opened.pop() + letter not in ("()", "[]", "{}")):
            return False
    return not opened


def _read(key: str, raw: str) -> Any:
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={raw}")
        if not parsed.is_sweep_override():
            return parsed.value()
    except HydraException:
        pass
    try:
        return read_yaml(raw)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={raw}: the value is not readable as YAML: {error}") from error


def _kind_at(composed: DictConfig, path: list[str], program: Program) -> Any:
    """The type of the field that a path names; entries under a user's own name are made on the way."""
    schema = OmegaConf.get_type(composed)
    node: Any = composed
    kind: Any = schema
    for place, name in enumerate(path):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            if is_dataclass(kind) and name not in node:
                node[name] = OmegaConf.structured(kind)
        elif is_dataclass(kind) and name in get_type_hints(kind):
            kind = get_type_hints(kind)[name]
        else:
            raise ConfigError(unknown_key(path, place, kind, all_keys(composed), program))
        node = node[name] if isinstance(node, DictConfig) and name in node else None
        if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
            kind = OmegaConf.get_type(node)  # the chosen loss rather than the class of all losses
    return kind


def _set(composed: DictConfig, path: list[str], value: Any, kind: Any, program: Program) -> None:
    has_fields = is_dataclass(kind) or (get_origin(kind) is dict and is_dataclass(get_args(kind)[1]))
    if has_fields and isinstance(value, Mapping):
        for name, child in value.items():
            deeper = [*path, str(name)]
            _set(composed, deeper, child, _kind_at(composed, deeper, program), program)
    else:
        OmegaConf.update(composed, ".".join(path), value, merge=False, force_add=True)
