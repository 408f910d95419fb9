"""What a finished directory holds, by size and SHA-256, and whether it still does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3emb_train.lineage.digests import digest, file_digest, value_digest
from qwen3emb_train.lineage.files import RUN_FILE, entries
from qwen3emb_train.lineage.records import RunRecord, read_record


def with_contents(
    record: RunRecord, directory: Path, below: str = "", known: Mapping[str, str] | None = None
) -> RunRecord:
    """The record with names, sizes and digests of all files that are in the directory now.

    Args:
        record: of the run that wrote them.
        directory: that will hold the record.
        below: only files in this subdirectory.
        known: digests by name that need not be taken again.
    """
    prefix = f"{below}/" if below else ""
    names = [f"{prefix}{name}" for name in entries(directory / below)]
    files = [name for name in names if (directory / name).is_file()]
    return replace(
        record,
        files=names,
        sizes={name: (directory / name).stat().st_size for name in files},
        digests={name: (known or {}).get(name) or file_digest(directory / name) for name in files},
    )


def is_complete(directory: Path, record: RunRecord) -> bool:
    """Whether every file that the run wrote is there.

    Raises:
        ValueError: one has another size: it was damaged or changed since, and is not replaced unasked.
    """
    for name, size in record.sizes.items():
        path = directory / name
        if path.is_file() and path.stat().st_size != size:
            raise ValueError(
                f"{path}: has {path.stat().st_size:,} bytes, and {record.program} wrote {size:,}: it was damaged or "
                "changed since. Delete it and run the same command, which writes it again, or give another output_dir."
            )
    return all((directory / name).is_file() for name in record.sizes)


def require_unchanged(directory: Path, digests: Mapping[str, str]) -> None:
    """Reads every byte.

    Args:
        directory: that the names are relative to.
        digests: SHA-256 by name, as they were when the files were written.

    Raises:
        ValueError: a file is missing or has other bytes; names it.
    """
    for name, written in digests.items():
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path}: is missing. Take another copy of the directory, or make it again.")
        if file_digest(path) != written:
            raise ValueError(
                f"{path}: its bytes are not those that were written: it was damaged or changed since. Take another "
                "copy of it, or make the directory again."
            )


def is_up_to_date(
    directory: Path,
    program: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    digest_of: Callable[[Path], str] = digest,
) -> bool:
    """Whether ``directory`` is the finished result of this program, configuration and input contents, and all there.

    Args:
        directory: an output directory; may not exist.
        program: its name.
        config: its resolved configuration.
        inputs: name -> file or directory.
        digest_of: gives an input's content digest; ``digest_cached`` where reading all of it takes long.

    Raises:
        ValueError: it is, but for a file that was damaged or changed since; names it.
    """
    if not (directory / RUN_FILE).is_file():
        return False
    record = read_record(directory)
    return (
        record is not None
        and record.program == program
        and value_digest(record.config) == value_digest(dict(config))
        and record.inputs == {name: digest_of(path) for name, path in inputs.items()}
        and is_complete(directory, record)
    )
