"""Commands in the documentation have programs and keys that exist; links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from qwen3emb_train.cli.front_door import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "scripts").rglob("*.md"),
        *(ROOT / "tests").glob("*.md"),
    ]
    + [path for name in ("qwen3emb_train", "data_synth", "recipes") for path in (ROOT / name).rglob("*.md")]
)
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def commands(page: Path) -> list[str]:
    """Whole command lines of ``python -m qwen3emb_train``; ``...`` stands for more settings of the reader's."""
    found = []
    for language, block in BLOCK.findall(page.read_text()):
        for line in (block if language in ("", "bash") else "").replace("\\\n", " ").splitlines():
            _, program, rest = line.partition("-m qwen3emb_train ")
            if program and not line.startswith("#"):
                found.append(rest.split(" # ")[0].strip())
    return found


CASES = [(page.name, command) for page in GUIDES for command in commands(page)]


def test_the_guides_hold_commands() -> None:
    assert {"README.md", "own-data.md", "reranker.md", "cluster.md", "serving.md"} <= {page for page, _ in CASES}


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page}: {command[:60]}" for page, command in CASES])
def test_a_documented_command_composes(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [word for word in shlex.split(command) if word != "..."]
    assert main(arguments if "--help" in arguments else [*arguments, "--cfg"]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_resolve(page: Path) -> None:
    targets = [link.split("#")[0] for link in LINK.findall(BLOCK.sub("", page.read_text()))]
    local = [target for target in targets if target and not target.startswith(("http:", "https:", "mailto:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []
