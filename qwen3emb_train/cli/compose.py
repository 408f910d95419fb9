"""Typed Hydra: YAML and ``key=value`` to the dataclass that a program takes.

There is no ``_target_`` anywhere: a file can set values, never name code to run. Hydra's own output directory and
logging are not used (ranks would race on them); the main process writes ``config.yaml`` into the output directory.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from qwen3emb_train.cli.config_files import config_directory
from qwen3emb_train.cli.messages import dict_fields, foreign_file, readable
from qwen3emb_train.lineage import write_text

_RESOLVER = re.compile(r"\$\{[^}]*:")
# A program that takes another's files: its schema, which has all their keys and more, stands in for theirs.
_STANDS_IN_FOR = {"plan": "train_embedding"}


class ConfigError(ValueError):
    """A configuration that cannot be composed: says which key, and what is near it."""


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    program: str
    overrides: list[str]
    config_dir: Path | None = None
    config_name: str | None = None
    print_only: bool = False


def parse_arguments(program: str, arguments: Sequence[str]) -> Request:
    """Splits Hydra's own options from ``key=value``."""
    options: dict[str, str] = {}
    overrides: list[str] = []
    print_only = False
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "--config-name", "-cd", "-cn"):
            if not value and not rest:
                raise ConfigError(f"{name} needs a value.")
            options[{"-cd": "--config-dir", "-cn": "--config-name"}.get(name, name)] = value or rest.pop(0)
        elif name == "--cfg":
            print_only = True
            if rest[:1] == ["job"]:
                rest.pop(0)
        elif argument.startswith("-") or ("=" not in argument and not argument.startswith("~")):
            raise ConfigError(f"cannot understand {argument!r}: give key=value, or see '{program} --help'.")
        elif argument.lstrip("+~").startswith("hydra"):  # its searchpath could import a module
            raise ConfigError(f"cannot set {argument!r}: Hydra's own settings are not used here.")
        else:
            overrides.append(argument)
    directory = Path(options["--config-dir"]).resolve() if "--config-dir" in options else None
    if directory is not None and not directory.is_dir():
        raise ConfigError(f"--config-dir {directory}: no such directory.")
    name_given = options.get("--config-name")
    if directory is not None and name_given is not None and not (directory / f"{name_given}.yaml").is_file():
        found = ", ".join(sorted(path.stem for path in directory.glob("*.yaml"))) or "none"
        raise ConfigError(f"--config-name {name_given}: no {name_given}.yaml in {directory}. There are: {found}.")
    return Request(program, overrides, directory, name_given, print_only)


def compose(request: Request, schema: type) -> tuple[Any, str]:
    """The program's configuration object, and the same as YAML.

    Raises:
        ConfigError: an unknown key or choice, a value of a wrong type, a missing mandatory value, a ``_target_``, a
            resolver such as ``${oc.env:X}``.
    """
    named = dict_fields(schema)
    texts = [override for override in request.overrides if _is_text(override, schema)]
    overrides = [_into_dict(override, named) for override in request.overrides if override not in texts]
    _register(request.program, schema, request.overrides, named)
    if request.config_dir is not None:  # Hydra looks for the primary file in its first directory only
        overrides.append(f"hydra.searchpath=['file://{config_directory()}']")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(request.config_dir or config_directory())):
            composed = hydra_compose(request.config_name or request.program, overrides)
        _refuse_untyped(composed, schema, request)
        for override in texts:
            _set_text(composed, override)
        _refuse_values(OmegaConf.to_container(composed, resolve=False))
        _refuse_missing(composed, request.program)
        text = OmegaConf.to_yaml(composed)
        return OmegaConf.to_object(composed), text
    except YAMLError as error:
        raise ConfigError(f"not readable as YAML: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error, schema, request.config_name, request.program)) from error


def write_config(config: Any, text: str) -> None:
    """``config.yaml`` in the output directory of programs that have one; the main process only."""
    output_dir = getattr(config, "output_dir", None)
    is_main = os.environ.get("RANK", "0") == "0"
    if output_dir and is_main and hasattr(config, "steps") and not hasattr(config, "json_path"):  # a plan writes none
        write_text(Path(output_dir) / "config.yaml", text)


def _register(program: str, schema: type, overrides: Sequence[str], named: Mapping[str, type]) -> None:
    """Puts the schemas where Hydra finds them, with an entry for every name that the overrides introduce.

    OmegaConf cannot make the ``SourceConfig`` that 'data.mine.path=x' needs on its way to ``path``.
    """
    node = OmegaConf.structured(schema)
    for override in overrides:
        field, name, *deeper = [*override.lstrip("+").partition("=")[0].split(".")[:3], "", ""]
        if field in named and is_dataclass(named[field]) and deeper[0] and name not in node[field]:
            node[field][name] = OmegaConf.structured(named[field])
    store = ConfigStore.instance()
    read = _STANDS_IN_FOR.get(program, program)
    if read in ("train_embedding", "train_reranker"):
        node["loss"] = "???"  # empty: a loss chosen in the defaults list is not merged into the default one's fields
        group, losses = _losses(read)
        for name, loss in losses.items():
            store.store(group=group, name=f"{name}_schema", node=loss)
    store.store(name=f"{read}_schema", node=node)


def _losses(program: str) -> tuple[str, dict[str, type]]:
    """The group of a training program's losses, and their schemas."""
    if program == "train_embedding":
        from qwen3emb_train.losses.distillation import Distillation
        from qwen3emb_train.losses.infonce import InfoNCE

        return "loss", {"infonce": InfoNCE, "distillation": Distillation}
    from qwen3emb_train.losses.list_wise import ListNet, RankNet
    from qwen3emb_train.losses.point_wise import PointWise
    from qwen3emb_train.losses.reranker_distillation import RerankerDistillation
    from qwen3emb_train.losses.reranking_sum import RerankingSum

    return "reranking_loss", {
        "point_wise": PointWise, "rank_net": RankNet, "list_net": ListNet,
        "reranker_distillation": RerankerDistillation, "reranking_sum": RerankingSum,
    }  # fmt: skip


def _into_dict(override: str, named: Mapping[str, type]) -> str:
    """'data.mine.path=x' and 'models.mine=x' may name a new entry or a recipe's.

    Fields of a dataclass entry exist by now (see ``_register``), so a misspelt one is still an error; a plain entry is
    added by Hydra's '++'.
    """
    bare = override.lstrip("+")
    field, *rest = bare.partition("=")[0].split(".")
    if field not in named or not rest:
        return override
    return bare if is_dataclass(named[field]) and len(rest) > 1 else f"++{bare}"


def _is_text(override: str, schema: type) -> bool:
    """Whether this is ``key=value`` for a field that holds text."""
    key, is_assignment, _ = override.lstrip("+").partition("=")
    kind: Any = schema
    for name in key.split("."):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    return bool(is_assignment) and kind in (str, str | None)


def _set_text(composed: DictConfig, override: str) -> None:
    """Sets text as it was typed.

    Hydra would take ``model=outputs/x`` for a choice of the group of that name, and stumble over the commas and
    brackets of a query or a path.
    """
    key, _, value = override.lstrip("+").partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    OmegaConf.update(composed, key, None if value == "null" else value, force_add=True)


def _refuse_untyped(composed: DictConfig, schema: type, request: Request) -> None:
    """Without the program's schema in its defaults list a file could hold any key."""
    if OmegaConf.get_type(composed) is not schema:
        raise ConfigError(foreign_file(request.config_name, request.program))


def _refuse_values(value: Any, path: str = "") -> None:
    """Refuses what runs code or reads secrets, and numbers that compare as false with every limit.

    Walks plain containers (``OmegaConf.to_container``).
    """
    if isinstance(value, dict):
        if "_target_" in value:
            raise ConfigError(
                f"{path or 'the configuration'} has a _target_: a configuration sets values, it runs no code."
            )
        for key, child in value.items():
            _refuse_values(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            _refuse_values(child, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value}: give a finite number (null, where a key allows it, switches it off).")
    elif isinstance(value, str) and _RESOLVER.search(value):
        raise ConfigError(
            f"{path} is {value}: a configuration may refer to its own keys, as in ${{output_dir}}, but not to the "
            "environment, where secrets are: run.json and config.yaml would hold them. Give the value itself."
        )


def _refuse_missing(composed: DictConfig, program: str) -> None:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)}. Give {'them' if len(missing) > 1 else 'it'} as key=value "
            f"(see 'python -m qwen3emb_train {program} --help')."
        )
