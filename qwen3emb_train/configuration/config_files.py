"""Where the YAML files of choices lie, read without Hydra (help must be fast)."""

import re
from pathlib import Path

from qwen3emb_train.configuration.program import Program

_REMARK = re.compile(r"\A(?:# @package.*\n)?((?:# .*\n)*)")


def config_directory() -> Path:
    """``configs/``: inside the package when installed, beside it in a checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "configs", package.parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no configs/ in or beside {package}: the installation is incomplete.")


def group_options(program: Program) -> dict[str, list[str]]:
    """The choices of each of a program's groups: the default one first, then classes, then files."""
    return {
        group: list(dict.fromkeys([*chosen.classes, *sorted(_files(group))]))
        for group, chosen in program.groups.items()
    }


def remark(group: str, option: str) -> str:
    """The comment that a choice's file begins with, on one line; empty where it has none or is a class."""
    path = _files(group).get(option)
    found = _REMARK.match(path.read_text(encoding="utf-8")) if path else None
    return " ".join(line.removeprefix("# ") for line in found[1].splitlines()) if found else ""


def _files(group: str) -> dict[str, Path]:
    return {path.stem: path for path in (config_directory() / group).glob("*.yaml")}
