"""Typed Hydra: from YAML and ``key=value`` to the dataclass that a program takes.

Hydra composes what has a defaults list: the schema, the chosen groups, a recipe's file. Keys are then set on the
result, because Hydra would take ``model=outputs/x`` for a choice of the group of that name, and stumble over the commas
and brackets of a query or a path. There is no ``_target_`` anywhere: a file can set values, never name code to run.
Hydra's own output directory and logging are not used (ranks would race on them).
"""

from importlib import import_module
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError  # type: ignore[import-untyped]

from qwen3emb_train.configuration.arguments import ConfigError, Request
from qwen3emb_train.configuration.config_files import config_directory
from qwen3emb_train.configuration.messages import foreign_file, readable
from qwen3emb_train.configuration.paths import expand_home
from qwen3emb_train.configuration.program import Program
from qwen3emb_train.configuration.refusals import forget_resolvers, refuse_files, refuse_values
from qwen3emb_train.configuration.setting import default_mixes, set_key


def load(name: str) -> Any:
    """The object that ``module:Name`` names; only ever called with names written in this package."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def compose(program: Program, request: Request) -> tuple[Any, str]:
    """The program's configuration object, and the same as YAML.

    Raises:
        ConfigError: an unknown key or choice, a value of a wrong type, a missing mandatory value, a ``_target_``, a
            resolver such as ``${oc.env:X}``.
    """
    schema = load(program.schema)
    mixes = _register(program, schema)
    chosen = [override for override in request.overrides if _is_choice(override, program)]
    if request.config_dir is not None:  # Hydra looks for the primary file in its first directory only
        refuse_files(request.config_dir, list(program.groups))
        chosen.append(f"hydra.searchpath=['file://{config_directory()}']")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(request.config_dir or config_directory())):
            forget_resolvers()  # here: Hydra has just registered its own
            composed = hydra_compose(request.config_name or program.name, chosen)
        if OmegaConf.get_type(composed) is not schema:  # without the schema a file could hold any key
            raise ConfigError(foreign_file(request.config_name, program))
        refuse_values(OmegaConf.to_container(composed, resolve=False))
        OmegaConf.set_struct(composed, None)  # a user's names are new keys; the classes refuse others
        for path, mix in mixes.items():
            if OmegaConf.is_missing(OmegaConf.select(composed, path.rpartition(".")[0]), path.rpartition(".")[2]):
                OmegaConf.update(composed, path, mix)
        for override in request.overrides:
            if not _is_choice(override, program):
                set_key(composed, override, program)
        expand_home(composed)
        refuse_values(OmegaConf.to_container(composed, resolve=False))
        _refuse_missing(composed, program)
        text = OmegaConf.to_yaml(composed)
        _check_interpolations(composed, request)
        return OmegaConf.to_object(composed), text
    except YAMLError as error:
        raise ConfigError(f"not readable as YAML: {error}") from error
    except RecursionError:
        raise ConfigError(f"a value is nested too deeply.\nAll keys: {program.command} --help") from None
    except OverflowError as error:  # an integer that no float holds; OmegaConf names the key, but not in a file
        where = str(error).partition("full_key: ")[2].partition("\n")[0] or f"{request.config_name}.yaml"
        raise ConfigError(f"{where}: a number is too large. Give one below 1e308.") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error, schema, request.config_name, program)) from error


def _check_interpolations(composed: DictConfig, request: Request) -> None:
    """Resolves them: ``to_object`` would not check what they give."""
    try:
        OmegaConf.resolve(composed)
    except ValidationError as error:
        given = ", ".join(override for override in request.overrides if "${" in override) or "an interpolation"
        raise ConfigError(f"{given}: gives a value of another kind ({str(error).splitlines()[0]}).") from None


def _register(program: Program, schema: type) -> dict[str, Any]:
    """Puts the schema and the classes of choices where Hydra finds them.

    Returns:
        The default mixes, taken out of the schema: a mix in a file replaces the default one, where Hydra would join
        the two.
    """
    node = OmegaConf.structured(schema)
    mixes = default_mixes(node)
    for path in mixes:
        OmegaConf.update(node, path, "???", merge=False)
    store = ConfigStore.instance()
    for group, choice in program.groups.items():
        for name, kind in choice.classes.items():
            store.store(group=group, name=_stored(f"{group}/{name}"), node=load(kind), package=choice.key)
        if len(choice.classes) > 1:  # empty: the chosen class is not merged into the default one's fields
            node[choice.key] = "???"
    store.store(name=_stored(program.stands_in_for or program.name), node=node)
    return mixes


def _stored(name: str) -> str:
    """The last part of a name, with ``_schema`` where a file of that name begins its defaults list with it."""
    stem = name.rpartition("/")[2]
    return f"{stem}_schema" if (config_directory() / f"{name}.yaml").is_file() else stem


def _is_choice(override: str, program: Program) -> bool:
    """Whether this is for Hydra: a group's choice, or a deletion."""
    return override.startswith("~") or override.lstrip("+").partition("=")[0].partition("@")[0] in program.groups


def _refuse_missing(composed: DictConfig, program: Program) -> None:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)}. Give {'them' if len(missing) > 1 else 'it'} as key=value "
            f"(see '{program.command} --help')."
        )
