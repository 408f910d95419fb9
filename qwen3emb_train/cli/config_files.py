"""Where the YAML vocabulary lies, read without Hydra (help must be fast)."""

import re
from pathlib import Path

_DEFAULTS = re.compile(r"^defaults:\n(?:  - .*\n)+\n?", flags=re.MULTILINE)
_PACKAGE = re.compile(r"\A# @package (\w+)\n")


def config_directory() -> Path:
    """``configs/``: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "configs", package.parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no configs/ in or beside {package}: the installation is incomplete.")


def skeleton(program: str) -> str:
    """The commented keys of a program; those of its groups follow, indented below the key that the group fills."""
    text = (config_directory() / f"{program}.yaml").read_text(encoding="utf-8")
    lines = _without_defaults(text).rstrip().splitlines()
    for group, chosen in _group_defaults(text).items():
        keys = (config_directory() / group / f"{chosen}.yaml").read_text(encoding="utf-8")
        package = _PACKAGE.match(keys)
        keys = _without_defaults(_PACKAGE.sub("", keys))
        lines += [f"{package[1] if package else group}:", *(f"  {line}".rstrip() for line in keys.splitlines())]
    return "\n".join([*lines, *(skeleton(parent) for parent in _parents(text))])


def group_options(program: str) -> dict[str, list[str]]:
    """Groups that a program's defaults list names, each with the choices there are."""
    text = (config_directory() / f"{program}.yaml").read_text(encoding="utf-8")
    own = {
        group: sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
        for group in _group_defaults(text)
    }
    for parent in _parents(text):
        own |= group_options(parent)
    return own


def _group_defaults(text: str) -> dict[str, str]:
    defaults = _DEFAULTS.search(text)
    return dict(re.findall(r"- (\w+): (\w+)", defaults[0])) if defaults else {}


def _parents(text: str) -> list[str]:
    """Other programs' skeletons that a defaults list builds on."""
    defaults = _DEFAULTS.search(text)
    names = re.findall(r"- (\w+)$", defaults[0], flags=re.MULTILINE) if defaults else []
    return [name for name in names if (config_directory() / f"{name}.yaml").is_file()]


def _without_defaults(text: str) -> str:
    return _DEFAULTS.sub("", text, count=1)
