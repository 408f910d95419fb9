"""Reads the records of a ledger that are on disk at this moment, as a killed process would leave them."""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(directory: Path, query: str) -> Iterator[Any]:
    """The query's rows in all databases below a directory, read from copies: SQLite recovers those as after a crash."""
    with tempfile.TemporaryDirectory() as copies:
        for number, path in enumerate(sorted((directory / "ledger").rglob("*.sqlite"))):
            for suffix in ("", "-wal"):
                if (source := path.with_name(path.name + suffix)).exists():
                    shutil.copyfile(source, Path(copies) / f"{number}.sqlite{suffix}")
            connection = sqlite3.connect(Path(copies) / f"{number}.sqlite")
            yield from connection.execute(query).fetchall()
            connection.close()


def ends(directory: Path) -> dict[bytes, list[str]]:
    """Kinds of the ends of each item."""
    found: dict[bytes, list[str]] = {}
    for item, kind in rows(directory, "SELECT item, kind FROM ends"):
        found.setdefault(item, []).append(kind)
    return found


def num_calls(directory: Path) -> int:
    return sum(count for (count,) in rows(directory, "SELECT count(*) FROM calls"))


def published_contents(directory: Path) -> dict[str, bytes]:
    """Every file of a published directory, with the time stamp of run.json left out."""
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    record = json.loads(found["run.json"])
    assert record.pop("finished")
    return {**found, "run.json": json.dumps(record).encode()}
