"""``run.json``: which program made a directory, from which inputs, and which files it wrote there."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from qwen3emb_train.lineage.digests import digest
from qwen3emb_train.lineage.files import RUN_FILE, write_text

_REPORTED_PACKAGES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    Attributes:
        program: the program that made the directory ("train_embedding", "merge", ...).
        config: its resolved configuration, as plain JSON values.
        inputs: content digest of every input, by name.
        metrics: results (final loss, scores, merge weights, ...).
        parents: ``run.json`` of the inputs that have one, by name: the record contains its whole ancestry.
        environment: package version, git commit, Python and library versions.
        finished: UTC time stamp.
        files: what the run wrote into the directory, by ``files.entries``: only these may be replaced.
        sizes, digests: bytes and SHA-256 of each of these, by name; empty in records of older versions.
    """

    program: str
    config: dict[str, Any]
    inputs: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    finished: str = ""
    files: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("config", dict), ("inputs", dict), ("metrics", dict), ("files", list), ("sizes", dict)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"its {name} is no {kind.__name__}")


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
    root = Path(__file__).resolve().parents[2]
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
    /,  # any name is free for a metric
    **metrics: Any,
) -> RunRecord:
    """A record of a run of ``program`` on ``inputs``, finished now.

    Args:
        program: its name.
        config: its resolved configuration.
        inputs: name -> file or directory.
        digest_of: as in ``is_up_to_date``.
        metrics: results, by name.
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


def settings_of(config: Any, unrecorded: Collection[str] = ()) -> dict[str, Any]:
    """A dataclass of settings as plain JSON values.

    Args:
        unrecorded: fields that do not change the result (where it is written, in how many processes).
    """
    settings = {name: value for name, value in asdict(config).items() if name not in unrecorded}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def with_metrics(record: RunRecord, **metrics: Any) -> RunRecord:
    """The same run at a later point: other metrics and time, the inputs as they were digested at its start."""
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
            return read_record_file(candidate)
    return None


def read_record_file(file: Path) -> RunRecord:
    """The record in a file.

    Raises:
        ValueError: it holds something else.
    """
    try:
        return RunRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not a run record ({error}); it is damaged, or another program's. Move this one file away and run "
            "the stage again: what lies beside it stays."
        ) from None
