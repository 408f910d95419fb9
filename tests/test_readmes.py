"""The READMEs of the rooms tell the truth about their files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qwen3emb_train", "data_synth")
READMES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("README.md"))
MODULE = re.compile(r"`((?:[\w.]+/)*\w+\.py)`")


def room_of(module: Path) -> Path:
    """The README that answers for a file: that of its directory, or of the nearest one above."""
    for directory in module.parents:
        if (directory / "README.md").exists():
            return directory / "README.md"
    raise AssertionError(f"no README above {module}")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_readme_names_exists(readme: Path) -> None:
    """In the room, in one of its own rooms, or from the top of the packages or of the repository."""
    bases = [readme.parent, ROOT, *(ROOT / package for package in PACKAGES), *_rooms(readme.parent)]
    missing = [name for name in MODULE.findall(readme.read_text()) if not any((base / name).exists() for base in bases)]
    assert missing == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_a_room_is_in_its_readme(readme: Path) -> None:
    """A room without a README of its own is named as a whole (``tasks/``), or file by file."""
    text = readme.read_text()
    silent = [
        module
        for module in sorted(readme.parent.rglob("*.py"))
        if not module.name.startswith("__") and room_of(module) == readme and not _is_named(module, readme.parent, text)
    ]
    assert [str(module.relative_to(ROOT)) for module in silent] == []


def _is_named(module: Path, room: Path, text: str) -> bool:
    names = [module.name, *(f"{parent.name}/" for parent in module.parents if room in parent.parents)]
    return any(name in text for name in names)


def _rooms(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_dir() and path.name != "__pycache__"]
