"""A command line, split into options and ``key=value``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3emb_train.configuration.program import Program

_LONG = {"-cd": "--config-dir", "-cn": "--config-name"}


class ConfigError(ValueError):
    """A configuration that cannot be composed: the message names the key, and what is near it."""


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        overrides: ``key=value``, in their order.
        config_dir, config_name: where the recipe is, and its file without ``.yaml``; None = the program's defaults.
        print_only: print the configuration and stop.
    """

    overrides: list[str]
    config_dir: Path | None = None
    config_name: str | None = None
    print_only: bool = False


def parse_arguments(program: Program, arguments: Sequence[str]) -> Request:
    """Splits options from ``key=value``.

    Raises:
        ConfigError: an unknown option, an option without its value, a file that is not there.
    """
    options: dict[str, str] = {}
    overrides: list[str] = []
    print_only = False
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, _, value = argument.partition("=")
        name = _LONG.get(name, name)
        if name in _LONG.values():
            if not value and not rest:
                raise ConfigError(f"{name} needs a value.")
            options[name] = value or rest.pop(0)
        elif name == "--cfg":
            print_only = True
            if rest[:1] == ["job"]:
                rest.pop(0)
        elif argument.startswith("-") or ("=" not in argument and not argument.startswith("~")):
            raise ConfigError(f"cannot understand {argument!r}: give key=value, or see '{program.command} --help'.")
        elif argument.lstrip("+~").startswith("hydra"):  # its searchpath could import a module
            raise ConfigError(f"cannot set {argument!r}: Hydra's own settings are not used here.")
        else:
            overrides.append(argument)
    return Request(overrides, *_recipe(program, options), print_only)


def _recipe(program: Program, options: dict[str, str]) -> tuple[Path | None, str | None]:
    """The recipe's directory and name; the name is the program's where only a directory is given."""
    if not options:
        return None, None
    together = "--config-dir and --config-name go together: a recipe's directory, and its file without .yaml."
    if "--config-dir" not in options:
        raise ConfigError(together)
    directory = Path(options["--config-dir"]).expanduser().resolve()
    if not directory.is_dir():
        raise ConfigError(f"--config-dir {directory}: no such directory.")
    name = options.get("--config-name", program.name)
    if not (directory / f"{name}.yaml").is_file():
        found = ", ".join(sorted(path.stem for path in directory.glob("*.yaml"))) or "none"
        missing = f"no {name}.yaml in {directory}. There are: {found}."
        raise ConfigError(missing if "--config-name" in options else f"{together} There is {missing}")
    return directory, name
