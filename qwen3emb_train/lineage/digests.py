"""Content digests: identify what an artefact was made of, independent of the place and name of the inputs."""

import hashlib
import json
import re
import time
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Any

from qwen3emb_train.lineage.files import CLAIM_FILE, LOCK_FILE, RUN_FILE, write_text

_PATTERN = re.compile(r"[*?\[]")
_NOT_CONTENT = (RUN_FILE, CLAIM_FILE, LOCK_FILE)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(path: Path) -> list[Path]:
    """The files that a pattern such as ``data/**/*.jsonl`` names, sorted; none where the path is no pattern."""
    if path.exists() or not _PATTERN.search(str(path)):
        return []
    return sorted(found for name in glob(str(path), recursive=True) if (found := Path(name)).is_file())


def digest(path: Path) -> str:
    """Content digest of a file, of all files of a directory, or of those of a pattern, with their names (hex).

    Raises:
        FileNotFoundError: there is neither.
    """
    if path.is_file():
        return file_digest(path)
    if found := matches(path):
        return _combined((child.name, file_digest(child)) for child in found)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or directory. Check the path, or run the stage that writes it.")
    return _combined((child.relative_to(path).as_posix(), file_digest(child)) for child in _files_of(path))


def digest_cached(path: Path, cache: Path, *, verify: bool = False) -> str:
    """``digest(path)``, without reading again the files that are unchanged since last time.

    A file counts as unchanged while its size, modification time (ns) and inode are those noted in ``cache``. A
    change of contents that restores all three goes unnoticed; ``verify`` reads everything. A file modified less than
    two seconds before it was digested is not noted: a later change could leave the same time stamp.

    Args:
        path: a file, a directory or a pattern.
        cache: a directory for the notes, one small file for each ``path``.
        verify: read all files, whatever is noted.
    """
    found = matches(path)
    if not found and not path.exists():
        return digest(path)  # raises, with the remedy
    notes_file = cache / f"{value_digest(str(path.resolve()))[:32]}.json"
    notes: dict[str, Any] = {}
    if notes_file.is_file() and not verify:
        try:
            notes = json.loads(notes_file.read_text(encoding="utf-8"))
        except ValueError:
            notes = {}  # damaged: everything is read again
    children = found or ([path] if path.is_file() else _files_of(path))
    names = [str(child) if found else child.relative_to(path).as_posix() for child in children]
    noted = {name: _digest_noted(child, notes.get(name)) for name, child in zip(names, children, strict=True)}
    lasting = {name: note for name, note in noted.items() if note["noted_ns"] - note["mtime_ns"] > 2_000_000_000}
    if lasting != notes:
        write_text(notes_file, json.dumps(lasting))
    if path.is_file():
        only: str = noted["."]["digest"]
        return only
    return _combined((Path(name).name if found else name, note["digest"]) for name, note in noted.items())


def _digest_noted(file: Path, note: dict[str, Any] | None) -> dict[str, Any]:
    before, now = file.stat(), time.time_ns()
    state = {"size": before.st_size, "mtime_ns": before.st_mtime_ns, "inode": before.st_ino}
    if note is not None and state.items() <= note.items():
        return note
    return {**state, "noted_ns": now, "digest": file_digest(file)}


def _files_of(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in _NOT_CONTENT)


def _combined(digests: Iterable[tuple[str, str]]) -> str:
    combined = hashlib.sha256()
    for name, one in digests:
        combined.update(f"{name}\0{one}\n".encode("utf-8", "surrogateescape"))
    return combined.hexdigest()


def value_digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order (hex)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
