"""Where every artefact comes from, and the promise that none is ever half-written.

A stage writes its results into a directory beside the final one, together with ``run.json`` (program, configuration,
digests of its inputs, versions), syncs it to the disk and renames it. So a finished directory is one that exists, and a
stage whose ``run.json`` matches what it is asked to do again can say "up to date" and stop.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"
_REPORTED_PACKAGES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    Attributes:
        program: the program that made the directory ("train_embedding", "merge", ...).
        config: its resolved configuration, as plain JSON values.
        inputs: content digest of every input, by name.
        metrics: the figures worth keeping (final loss, scores, merge weights, ...).
        parents: ``run.json`` of the inputs that have one, by name: the whole ancestry travels along.
        environment: package version, git commit, Python and library versions.
        finished: UTC time stamp.
    """

    program: str
    config: dict[str, Any]
    inputs: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    finished: str = ""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Content digest of a file, or of all files of a directory with their relative names (hex)."""
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or directory. Check the path, or run the stage that writes it.")
    return _combined((child.relative_to(path).as_posix(), file_digest(child)) for child in _files_of(path))


def digest_cached(path: Path, cache: Path, *, verify: bool = False) -> str:
    """``digest(path)``, without reading again the files that are evidently the same as last time.

    A file counts as unchanged while its size, modification time (ns) and inode are those noted in ``cache``. Whoever
    changes contents and sets all three back deceives this; ``verify`` reads everything. A file that was modified less
    than two seconds before it was digested is not noted: a later change could leave the same time stamp.

    Args:
        cache: a directory for the notes, one small file for each ``path``.
    """
    if not path.exists():
        return digest(path)  # raises, with the remedy
    notes_file = cache / f"{value_digest(str(path.resolve()))[:32]}.json"
    notes: dict[str, Any] = {}
    if notes_file.is_file() and not verify:
        try:
            notes = json.loads(notes_file.read_text(encoding="utf-8"))
        except ValueError:
            notes = {}  # damaged: everything is read again
    children = [path] if path.is_file() else _files_of(path)
    names = [child.relative_to(path).as_posix() for child in children]
    noted = {name: _digest_noted(child, notes.get(name)) for name, child in zip(names, children, strict=True)}
    lasting = {name: note for name, note in noted.items() if note["noted_ns"] - note["mtime_ns"] > 2_000_000_000}
    if lasting != notes:
        write_text(notes_file, json.dumps(lasting))
    if path.is_file():
        only: str = noted["."]["digest"]
        return only
    return _combined((name, note["digest"]) for name, note in noted.items())


def _digest_noted(file: Path, note: dict[str, Any] | None) -> dict[str, Any]:
    before, now = file.stat(), time.time_ns()
    state = {"size": before.st_size, "mtime_ns": before.st_mtime_ns, "inode": before.st_ino}
    if note is not None and state.items() <= note.items():
        return note
    return {**state, "noted_ns": now, "digest": file_digest(file)}


def _files_of(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != RUN_FILE)


def _combined(digests: Iterable[tuple[str, str]]) -> str:
    combined = hashlib.sha256()
    for name, one in digests:
        combined.update(f"{name}\0{one}\n".encode("utf-8", "surrogateescape"))
    return combined.hexdigest()


def value_digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order (hex)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions and commit, for ``run.json``."""
    versions = {}
    for name in ("qwen3emb-train", *_REPORTED_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "versions": versions, "git_commit": _git_commit()}


def _git_commit() -> str | None:
    """Commit of the checkout this code runs from, with ``-dirty`` when files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def new_record(
    program: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    digest_of: Callable[[Path], str] = digest,
    /,  # any name may be a metric's
    **metrics: Any,
) -> RunRecord:
    """A record of a run of ``program`` on ``inputs`` (name -> file or directory), finished now.

    Args:
        digest_of: as for ``is_up_to_date``.
    """
    parents = {name: asdict(record) for name, path in inputs.items() if (record := read_record(path)) is not None}
    return RunRecord(
        program=program,
        config=dict(config),
        inputs={name: digest_of(path) for name, path in inputs.items()},
        metrics=metrics,
        parents=parents,
        environment=environment(),
        finished=_now(),
    )


def with_metrics(record: RunRecord, **metrics: Any) -> RunRecord:
    """The same run at a later point: other figures and time, the inputs as they were digested at its start."""
    return replace(record, metrics=metrics, finished=_now())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_record(directory: Path, record: RunRecord) -> None:
    write_text(directory / RUN_FILE, json.dumps(asdict(record), indent=2, ensure_ascii=False, default=str) + "\n")


def read_record(directory: Path) -> RunRecord | None:
    """The record of a directory, or of the directory above it; None where there is none.

    A checkpoint's ``model/`` has its record one level up.
    """
    for candidate in (directory / RUN_FILE, directory.parent / RUN_FILE):
        if candidate.is_file():
            try:
                return RunRecord(**json.loads(candidate.read_text(encoding="utf-8")))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{candidate}: not a run record ({error}). Delete the directory and run the stage again."
                ) from None
    return None


def is_up_to_date(
    directory: Path,
    program: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    digest_of: Callable[[Path], str] = digest,
) -> bool:
    """Whether ``directory`` is the finished result of this very program, configuration and input contents.

    Args:
        digest_of: gives an input's content digest; ``digest_cached`` where reading all of it takes long.
    """
    if not (directory / RUN_FILE).is_file():
        return False
    record = read_record(directory)
    return (
        record is not None
        and record.program == program
        and value_digest(record.config) == value_digest(dict(config))
        and record.inputs == {name: digest_of(path) for name, path in inputs.items()}
    )


def write_text(path: Path, text: str) -> None:
    """Writes a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yields a directory to fill; on success syncs it and renames it to ``final``, on an exception removes it.

    An existing ``final`` stays readable until the new one is complete; then it is replaced.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _restore_interrupted(final)
    temporary = writing_name(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_tree(temporary)
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def writing_name(final: Path) -> Path:
    """Where ``atomic_directory`` keeps what is not complete yet."""
    return final.with_name(f".{final.name}.writing")


def _restore_interrupted(final: Path) -> None:
    """Mends a stop between the two renames: the replaced directory is still there under its other name."""
    replaced = final.with_name(f".{final.name}.replaced")
    if replaced.exists():
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)


def _sync_tree(directory: Path) -> None:
    """Files, and the directories that name them."""
    for path in [*directory.rglob("*"), directory]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
