"""``key=value`` and a recipe's YAML to the typed configuration: no key that is not a field, no value that runs code.

The only file here that knows OmegaConf. Not Hydra: this program has one schema and no groups to choose from. A recipe
file begins as those of the training programs do, with ``defaults: [/synthesize, _self_]``.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

PROGRAM = "synthesize"
_DEFAULTS = [f"/{PROGRAM}", "_self_"]
_INTERPOLATION = re.compile(r"\$\{")
_ALL_KEYS = "All keys: python -m data_synth --help"


class ConfigError(ValueError):
    """A configuration that cannot be composed: says which key, and what is near it."""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line: a recipe file (or none), and the overrides in their order."""

    recipe: Path | None
    overrides: tuple[str, ...]
    print_only: bool = False


def parse_arguments(arguments: Sequence[str]) -> CommandLine:
    """Splits options from ``key=value``."""
    options: dict[str, str] = {}
    overrides: list[str] = []
    print_only = False
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "--config-name"):
            if not value and not rest:
                raise ConfigError(f"{name} needs a value.")
            options[name] = value or rest.pop(0)
        elif argument == "--cfg":
            print_only = True
        elif argument.startswith("-") or "=" not in argument:
            raise ConfigError(f"cannot understand {argument!r}: give key=value, or see --help.")
        else:
            overrides.append(argument)
    if len(options) == 1:
        raise ConfigError(
            "--config-dir and --config-name go together: a recipe's directory, and its file without .yaml."
        )
    recipe = None
    if options:
        directory, stem = Path(options["--config-dir"]), options["--config-name"]
        recipe = directory / f"{stem}.yaml"
        if not recipe.is_file():
            found = ", ".join(sorted(path.stem for path in directory.glob("*.yaml"))) or "none"
            raise ConfigError(f"no {stem}.yaml in {directory}. There are: {found}.")
    return CommandLine(recipe, tuple(overrides), print_only)


def compose(line: CommandLine, schema: type) -> tuple[Any, str]:
    """The configuration object, and the same as YAML.

    Raises:
        ConfigError: an unknown key, a value of a wrong type, a missing mandatory value, an interpolation.
    """
    layers: list[tuple[tuple[str, ...], Any]] = [((), _recipe(line.recipe))] if line.recipe else []
    layers += [_override(text, schema) for text in line.overrides]
    config = OmegaConf.structured(schema)
    try:
        for path, value in layers:
            nested = value
            for name in reversed(path):
                nested = {name: nested}
            _check_keys(nested, schema, schema)
            _check_values(nested)
            for mix in _mixes(value, _kind_at(path, schema), path):
                OmegaConf.update(config, ".".join(mix), {}, merge=False)
            config = OmegaConf.merge(config, nested)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"missing: {', '.join(missing)}. Give each as key=value. {_ALL_KEYS}")
        return OmegaConf.to_object(config), OmegaConf.to_yaml(config)
    except OmegaConfBaseException as error:
        lines = [part.strip() for part in str(error).splitlines() if "_type=" not in part and part.strip()]
        raise ConfigError("\n".join([*lines, _ALL_KEYS])) from error


def _recipe(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(value, dict) or value.pop("defaults", None) != _DEFAULTS:
        raise ConfigError(
            f"{path} is no configuration of this program: begin it with 'defaults: [/{PROGRAM}, _self_]'."
        )
    return value


def _override(text: str, schema: type) -> tuple[tuple[str, ...], Any]:
    """'a.b=1' as (("a", "b"), 1). Where the field holds text the value is taken as it was typed."""
    key, _, raw = text.partition("=")
    path = tuple(key.split("."))
    if _kind_at(path, schema) in (str, str | None):
        is_quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
        return path, None if raw == "null" else raw[1:-1] if is_quoted else raw
    try:
        return path, yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text}: the value is not readable as YAML: {error}") from error


def _mixes(value: Any, schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Places where a whole mix is given ({en: 0.5, de: 0.5}): it replaces the default one, it does not join it."""
    if not isinstance(value, Mapping):
        return
    if get_origin(schema) is dict and not is_dataclass(get_args(schema)[1]):
        yield path
    for name, child in value.items():
        yield from _mixes(child, _kind_at((str(name),), schema), (*path, str(name)))


def _kind_at(path: Sequence[str], schema: Any) -> Any:
    """The type of the field that a path names; None where there is none."""
    for name in path:
        if get_origin(schema) is dict:
            schema = get_args(schema)[1]
        else:
            schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return schema


def _check_keys(value: Any, schema: Any, root: type, path: str = "") -> None:
    """Refuses keys that are no fields, and says which field is near."""
    if not isinstance(value, Mapping):
        return
    if get_origin(schema) is dict:
        for name, child in value.items():
            _check_keys(child, get_args(schema)[1], root, f"{path}{name}.")
    elif is_dataclass(schema):
        hints = get_type_hints(schema)
        for name, child in value.items():
            if name not in hints:
                raise ConfigError(_unknown(str(name), path, schema, root))
            _check_keys(child, hints[name], root, f"{path}{name}.")


def _unknown(name: str, path: str, schema: Any, root: type) -> str:
    full = f"{path}{name}"
    if name == "_target_":
        return f"{full}: a configuration sets values, it runs no code."
    near = [f"{path}{close}" for close in difflib.get_close_matches(name, list(get_type_hints(schema)), n=2)]
    if not near:  # perhaps the right name in another place
        near = [key for key in _all_keys(root) if key.rsplit(".", 1)[-1] == name][:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"there is no key {full!r}.{hint}\n{_ALL_KEYS}"


def _all_keys(schema: Any, path: str = "") -> Iterator[str]:
    for name, kind in get_type_hints(schema).items():
        yield f"{path}{name}"
        if get_origin(kind) is dict:
            kind, name = get_args(kind)[1], f"{name}.NAME"
        if is_dataclass(kind):
            yield from _all_keys(kind, f"{path}{name}.")


def _check_values(value: Any, path: str = "") -> None:
    if isinstance(value, Mapping):
        for name, child in value.items():
            _check_values(child, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            _check_values(child, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value}: give a finite number (null, where a key allows it, switches it off).")
    elif isinstance(value, str) and _INTERPOLATION.search(value):
        raise ConfigError(
            f"{path} is {value}: values are taken as they stand. A resolver such as oc.env would write what it read "
            "(perhaps a secret) into the run's files; name a key's variable in teacher.api_key_env instead."
        )
