"""Files that readers see whole or not at all, and that a power failure does not take away again."""

import glob
import os
import platform
from collections.abc import Collection
from pathlib import Path

from qwen3emb_train.lineage.locks import process_start

RUN_FILE = "run.json"
CLAIM_FILE = ".program"  # see ownership
LOCK_FILE = ".lock"  # see locks


def write_text(path: Path, text: str) -> None:
    """Writes a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = f".{path.name}.{platform.node()}."
    for left in path.parent.glob(f"{glob.escape(before)}*.tmp"):  # by a writer that was killed
        pid = left.name[len(before) : -len(".tmp")]
        if pid.isdigit() and len(pid) < 10 and process_start(int(pid)) is None:
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{before}{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def entries(directory: Path, without: Collection[str] = ()) -> list[str]:
    """Relative names of all files, links and empty directories (these with a "/" at their end), sorted.

    Args:
        without: names directly in ``directory`` to leave out.
    """
    found = []
    for parent, directories, files in os.walk(directory):  # does not follow links
        here = Path(parent)
        if here == directory:
            directories[:] = [name for name in directories if name not in without]
            files = [name for name in files if name not in without]
        elif not directories and not files:
            found.append(f"{here.relative_to(directory).as_posix()}/")
        links = [name for name in directories if (here / name).is_symlink()]
        found += [(here / name).relative_to(directory).as_posix() for name in [*files, *links]]
    return sorted(found)


def remove_entries(directory: Path, names: Collection[str]) -> None:
    """Removes what ``entries`` named, and the directories that this leaves empty; anything else stays."""
    for name in names:
        if not name.endswith("/"):
            (directory / name).unlink(missing_ok=True)
    parents = {parent for name in names for parent in Path(f"{name}x" if name.endswith("/") else name).parents}
    for parent in sorted(parents - {Path()}, key=lambda path: -len(path.parts)):
        if (directory / parent).is_dir() and not any((directory / parent).iterdir()):
            (directory / parent).rmdir()


def follow_umask(directory: Path) -> None:
    """Gives all files the permissions that new ones have: some libraries give theirs to the owner only.

    The directory itself must have been made by ``mkdir``, so that it shows the umask.
    """
    wanted = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        mode = path.lstat().st_mode
        if path.is_file() and not path.is_symlink() and mode & wanted != wanted:
            path.chmod(mode & 0o777 | wanted)


def sync_tree(directory: Path) -> None:
    """Writes a directory to the disk: its files, and the directories that contain them."""
    for path in [*directory.rglob("*"), directory]:
        sync(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
