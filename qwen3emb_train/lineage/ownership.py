"""Protects a user's files: a program replaces only what a run of the same program wrote."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from qwen3emb_train.lineage.files import CLAIM_FILE, RUN_FILE, entries, write_text
from qwen3emb_train.lineage.publishing import Place
from qwen3emb_train.lineage.records import read_record_file

_WAY_OUT = "Give another output_dir, or delete it yourself."


def require_apart(output: Path, inputs: Mapping[str, Path]) -> None:
    """Refuses an output directory that is, holds, or lies in an input; links are followed.

    Raises:
        ValueError: it does.
    """
    final = output.resolve()
    for name, path in inputs.items():
        source = path.resolve()
        if source == final:
            relation = "is"
        elif final in source.parents:
            relation = "holds"
        elif source in final.parents:
            relation = "lies in"
        else:
            continue
        raise ValueError(f"output_dir={output} {relation} the input {name} ({path}). Give another output_dir.")


def require_replaceable(place: Place, program: str) -> None:
    """Refuses a place that holds anything that a finished run of ``program`` did not write there.

    Raises:
        ValueError: it does; some of it is named.
    """
    final = place.final
    if not final.exists():
        return
    if not final.is_dir():
        raise ValueError(f"{final} is a file, and output_dir a directory. {_WAY_OUT}")
    found = entries(final, without=place.own_names)
    if not found:
        return
    record = read_record_file(final / RUN_FILE) if (final / RUN_FILE).is_file() else None
    if record is not None and record.program != program:
        raise ValueError(f"{final} was written by {record.program}, and {program} does not replace it. {_WAY_OUT}")
    own = {RUN_FILE, *(record.files if record is not None else ())}
    emptied = {name for name in found if name.endswith("/") and any(file.startswith(name) for file in own)}
    _refuse(final, program, set(found) - own - emptied)


def require_claimable(directory: Path, program: str, names: Collection[str]) -> None:
    """For a directory that runs of ``program`` fill over time: refuses one where they would overwrite others' files.

    Args:
        directory: the output directory; may not exist yet.
        program: its name.
        names: what the program writes there, as patterns; other files in it are never touched.

    Raises:
        ValueError: some of these names are there and no run of the program has claimed the directory.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is a file, and output_dir a directory. {_WAY_OUT}")
    claim = directory / CLAIM_FILE
    if claim.is_file() and claim.read_text(encoding="utf-8").strip() == program:
        return
    _refuse(directory, program, {path.name for path in own_paths(directory, names)})


def claim(directory: Path, program: str) -> None:
    """Notes that ``program`` fills the directory; after ``require_claimable``."""
    if not (directory / CLAIM_FILE).is_file():
        write_text(directory / CLAIM_FILE, f"{program}\n")


def own_paths(directory: Path, names: Collection[str]) -> list[Path]:
    """The direct children of a directory that match one of the names, given as patterns."""
    return sorted(path for path in directory.iterdir() if any(fnmatch(path.name, name) for name in names))


def _refuse(directory: Path, program: str, foreign: Collection[str]) -> None:
    if foreign:
        shown = ", ".join(sorted(foreign)[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise ValueError(f"{directory} holds what {program} did not write ({shown}), and it would be lost. {_WAY_OUT}")
