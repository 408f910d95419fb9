"""What a configuration may not do, whoever wrote it: run code, read secrets, leave its directory, fill the memory."""

import math
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from qwen3emb_train.configuration.arguments import ConfigError

_RESOLVER = re.compile(r"\$\{[^}]*:")
# OmegaConf registers these at import and Hydra at each composition. None is needed, and ``oc.env`` reads secrets; a
# pattern cannot find them all (``${${a}:HOME}``), so they are taken away.
_RESOLVERS = (
    "oc.env", "oc.decode", "oc.deprecated", "oc.create", "oc.select", "oc.dict.keys", "oc.dict.values", "now", "hydra",
    "python_version",
)  # fmt: skip
_MOST_NODES = 100_000  # of a YAML file with its aliases written out; ours have a few hundred
_LONGEST_NAME = 100  # characters; file systems take 255 bytes


def forget_resolvers() -> None:
    """Leaves no function that a ``${name:argument}`` could call in this process."""
    for name in _RESOLVERS:
        OmegaConf.clear_resolver(name)


def refuse_values(value: Any, path: str = "") -> None:
    """Refuses code, resolvers, names that are no file names, and numbers that compare as false with every limit.

    Args:
        value: plain containers (``OmegaConf.to_container``).
        path: of ``value`` in the configuration, for the message.

    Raises:
        ConfigError: names the key.
    """
    if isinstance(value, dict):
        if "_target_" in value:
            raise ConfigError(
                f"{path or 'the configuration'} has a _target_: a configuration sets values, it runs no code."
            )
        for key, child in value.items():
            _refuse_name(str(key), path)
            refuse_values(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            refuse_values(child, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value}: give a finite number (null, where a key allows it, switches it off).")
    elif isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{path} holds a NUL character, which no path or text has. Write it without.")
    elif isinstance(value, str) and _RESOLVER.search(value):
        raise ConfigError(
            f"{path} is {value}: a configuration may refer to its own keys, as in ${{output_dir}}, but not to the "
            "environment, where secrets are: the files of a run would hold them. Give the value itself."
        )


def _refuse_name(name: str, path: str) -> None:
    """A user's name (of a source, a set, a model) becomes part of file names, as in ``rejected_NAME.jsonl``."""
    if "/" in name or "\\" in name or name.strip() in ("", ".", "..") or not name.isprintable():
        raise ConfigError(
            f"{path or 'the configuration'} has the name {name!r}, and files are named after it. Use letters, digits, "
            "dots, - and _."
        )
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"{path} has a name of {len(name)} characters ({name[:20]!r}...); use {_LONGEST_NAME}.")


def read_yaml(text: str) -> Any:
    """Parses YAML of bounded size: aliases of aliases can stand for billions of values in a few lines.

    Raises:
        ConfigError: it is too large with its aliases written out, refers to itself, or is nested too deeply.
        yaml.YAMLError: it is no YAML.
    """
    try:
        value = yaml.safe_load(text)
        size = _written_out(value, {})
    except RecursionError:
        raise ConfigError("nested too deeply, or an alias that holds itself: write the values out.") from None
    if size > _MOST_NODES:
        raise ConfigError(
            f"its aliases (*name) stand for {size:.3g} values, and at most {_MOST_NODES} are taken. Write them out."
        )
    return value


def refuse_files(directory: Path, groups: list[str]) -> None:
    """Looks through a recipe's YAML files before Hydra reads any.

    Args:
        directory: of the recipe.
        groups: subdirectories that may hold choices.

    Raises:
        ConfigError: names the file.
    """
    for path in (path for where in ("", *groups) for path in sorted((directory / where).glob("*.yaml"))):
        try:
            read_yaml(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is not UTF-8. Convert the file.") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except yaml.YAMLError:
            continue  # perhaps not the file that is asked for; Hydra says so of the one that is


def _written_out(value: Any, known: dict[int, int]) -> int:
    """Values in ``value``, those of an alias counted each time it stands there; each object is walked once."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(child, known) for child in children)
    return known[id(value)]
