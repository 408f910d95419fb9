"""What a user reads when a configuration cannot be composed: Hydra's message without its class names, and a remedy."""

import difflib
import re
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_NOISE = re.compile(r"(object|reference)_type=|_schema\s*$|To append to your|^\s*full_key: ")
# Keys filled by a group of another name, where a group of the key's own name belongs to other programs.
_CHOSEN_AS = {"train_reranker": {"loss": "reranking_loss"}}


def dict_fields(schema: type) -> dict[str, type]:
    """Fields of type ``dict[str, X]``, with X: their keys are the user's own names."""
    found = {name: kind for name, kind in get_type_hints(schema).items() if get_origin(kind) is dict}
    return {name: get_args(kind)[1] for name, kind in found.items()}


def foreign_file(config_name: str | None, program: str) -> str:
    """For a file that is another program's, or has no defaults list."""
    return (
        f"{config_name}.yaml is no configuration of {program}: "
        f"begin it with 'defaults: [/{program}, _self_]', or call the program that it is for."
    )


def readable(error: Exception, schema: type, config_name: str | None, program: str) -> str:
    """Hydra's message without its class names, and the nearest known key."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    message = str(error).split("\nConfig search path:")[0]
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.search(line)]
    if cause is not None:
        lines += [line for line in str(cause).splitlines() if not _NOISE.search(line) and line not in lines]
    text = "\n".join(line.strip() for line in lines)
    if re.search(r"Could not find '\w+_schema'", text):
        return foreign_file(config_name, program)
    wrong = re.search(r"Key '([^']+)' (?:is )?not in|Could not override '([^']+)'", text)
    if wrong:
        path = wrong[2] or wrong[1]
        key = path.rsplit(".", 1)[-1]
        known = _known_keys(OmegaConf.structured(schema))
        for name, kind in dict_fields(schema).items():
            known += _known_keys(OmegaConf.structured(kind), f"{name}.NAME") if is_dataclass(kind) else []
        close = difflib.get_close_matches(key, {name.rsplit(".", 1)[-1] for name in known}, n=1)
        if wrong[2] in _CHOSEN_AS.get(program, {}):
            text += f"\n{path} is chosen as {_CHOSEN_AS[program][path]}=NAME."
        elif key == "_target_":
            text += "\nA configuration sets values, it runs no code."
        elif close:
            full = sorted(name for name in known if name.rsplit(".", 1)[-1] == close[0])
            nearby = [name for name in full if name.split(".")[0] == path.split(".")[0]]
            text += f"\nDid you mean {' or '.join((nearby or full)[:3])}?"
    return f"{text}\nAll keys: python -m qwen3emb_train {program} --help"


def _known_keys(node: Any, path: str = "") -> list[str]:
    keys: list[str] = []
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in map(str, node):
            full = f"{path}.{key}".lstrip(".")
            keys.append(full)
            if not OmegaConf.is_missing(node, key):
                keys += _known_keys(node[key], full)
    return keys
