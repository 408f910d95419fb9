"""The lines of requirements.lock for what pip would install, from pip's report on stdin; for install.sh.

pip install --dry-run --quiet --report - ... | python scripts/locked.py > these.txt
"""

import json
import re
import sys
from pathlib import Path


def name_of(package: str) -> str:
    """As package indices spell it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def locked_lines(report: str, lock: str) -> str:
    """The blocks of a lock file for the packages of a report; the project itself has none.

    Args:
        report: of ``pip install --report``.
        lock: content of requirements.lock.

    Raises:
        ValueError: a package is not in the lock, or in another version.
    """
    blocks = {name_of(block.partition("==")[0]): block for block in re.split(r"\n(?=\S)", lock) if "==" in block}
    chosen = []
    for package in json.loads(report)["install"]:
        name, version = name_of(package["metadata"]["name"]), package["metadata"]["version"]
        if package["download_info"]["url"].startswith("file:") and "dir_info" in package["download_info"]:
            continue
        block = blocks.get(name, "")
        public, _, local = version.partition("+")
        if local and block.startswith(f"{name}=={public} "):
            # A build such as 2.13.0+cpu comes from where the user pointed pip, not from PyPI: this file and no other.
            own = package["download_info"]["archive_info"]["hashes"]["sha256"]
            chosen.append(f"{name}=={version} \\\n    --hash=sha256:{own}")
            continue
        if not block.startswith(f"{name}=={version} "):
            raise ValueError(f"{name}=={version} is not in scripts/requirements.lock. Run scripts/lock.sh.")
        chosen.append(block.rstrip())
    return "\n".join(chosen) + "\n"


if __name__ == "__main__":
    lock_file = Path(__file__).with_name("requirements.lock")
    sys.stdout.write(locked_lines(sys.stdin.read(), lock_file.read_text(encoding="utf-8")))
