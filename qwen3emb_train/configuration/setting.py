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

    Text is taken as typed. Other values are in Hydra's grammar, or else in YAML's. A whole mix of a mapping replaces
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
        is_quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
        value: Any = None if raw == "null" else raw[1:-1] if is_quoted else raw
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
