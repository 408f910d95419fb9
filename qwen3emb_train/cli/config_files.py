"""Where the YAML vocabulary lies, read without Hydra (help must be fast)."""

import re
from pathlib import Path


def config_directory() -> Path:
    """``configs/``: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "configs", package.parent / "configs"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no configs/ in or beside {package}: the installation is incomplete.")


def group_options(skeleton: str) -> dict[str, list[str]]:
    """Groups that a skeleton's defaults list names, each with the choices there are."""
    defaults = skeleton.split("\ndefaults:", 1)[-1].split("\n\n", 1)[0]
    groups = re.findall(r"^\s*- (\w+): \w+", defaults, flags=re.MULTILINE)
    return {group: sorted(path.stem for path in (config_directory() / group).glob("*.yaml")) for group in groups}
