"""install.sh installs only files whose hashes are locked."""

import json
import re
from pathlib import Path

import pytest

from scripts.locked import locked_lines

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = "# Made by a script\na-b==1.0 \\\n    --hash=sha256:00\nc==2 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n"


def report(*packages: tuple[str, str]) -> str:
    origin = {"url": "https://x/y.whl", "archive_info": {"hashes": {"sha256": "33"}}}
    found = [{"metadata": {"name": n, "version": v}, "download_info": origin} for n, v in packages]
    own = {"metadata": {"name": "p", "version": "1"}, "download_info": {"url": "file:///p", "dir_info": {}}}
    return json.dumps({"install": [*found, own]})


def test_the_lines_of_what_pip_would_install() -> None:
    assert locked_lines(report(("C", "2")), LOCK) == "c==2 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n"
    assert locked_lines(report(("A_b", "1.0")), LOCK) == "a-b==1.0 \\\n    --hash=sha256:00\n"


def test_a_build_from_another_index_is_taken_as_the_one_file_that_was_found() -> None:
    assert locked_lines(report(("c", "2+cpu")), LOCK) == "c==2+cpu \\\n    --hash=sha256:33\n"


@pytest.mark.parametrize("package", [("d", "1"), ("c", "3"), ("c", "2.0")])
def test_what_is_not_locked_is_not_installed(package: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"not in scripts/requirements\.lock"):
        locked_lines(report(package), LOCK)


def test_the_lock_has_hashes_for_every_package_and_the_constraints_are_made_from_it() -> None:
    lock = (ROOT / "scripts" / "requirements.lock").read_text()
    blocks = [block for block in re.split(r"\n(?=\S)", lock) if "==" in block]
    assert len(blocks) > 150
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    pins = {block.split()[0] for block in blocks}
    constraints = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    assert {line for line in constraints if not line.startswith("#")} == pins
