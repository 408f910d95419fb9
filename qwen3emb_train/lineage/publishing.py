"""Directories that are whole or absent: written in another place, synced, and only then given their name.

A directory is written beside its final place and renamed. In one that cannot be renamed (a mount point, a container's
volume, a shell's working directory) it is written within, and its children are moved, ``run.json`` last: as
long as that is missing the directory counts as absent, and the next run completes the move.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qwen3emb_train.lineage.files import LOCK_FILE, RUN_FILE, follow_umask, remove_entries, sync, sync_tree
from qwen3emb_train.lineage.records import read_record_file

_REPLACED_RECORD = ".replaced_run.json"
_WRITING = ".writing"


@dataclass(frozen=True)
class Place:
    """Where a directory is written until it is complete.

    Attributes:
        final: its name in the end; no link.
        is_inside: it is written within ``final``, which cannot be renamed.
    """

    final: Path
    is_inside: bool = False

    @classmethod
    def of(cls, output: Path) -> "Place":
        """Links are followed: what is replaced is the directory that they name, on the disk that it is on."""
        final = output.resolve()
        return cls(final, final.is_dir() and not _can_be_renamed(final))

    @property
    def writing(self) -> Path:
        return self.final / _WRITING if self.is_inside else self.final.with_name(f".{self.final.name}.writing")

    @property
    def lock(self) -> Path:
        return self.final / LOCK_FILE if self.is_inside else self.final.with_name(f".{self.final.name}.lock")

    @property
    def own_names(self) -> tuple[str, ...]:
        """Names in ``final`` that are not results, while a run is writing."""
        return (_WRITING, LOCK_FILE, f"{LOCK_FILE}.takeover")

    @property
    def is_interrupted(self) -> bool:
        """Whether a run was killed while it moved its finished results into ``final``."""
        return self.is_inside and (self.writing / RUN_FILE).is_file()

    def recover(self) -> None:
        """Completes or undoes what an interrupted run was publishing, and removes what it was writing."""
        if self.is_interrupted:
            self._move_in()
        _restore_interrupted(self.final)
        shutil.rmtree(self.writing, ignore_errors=True)

    @contextmanager
    def fill(self) -> Iterator[Path]:
        """Yields the directory to fill; on an exception removes it."""
        self.writing.parent.mkdir(parents=True, exist_ok=True)
        self.recover()
        self.writing.mkdir()
        try:
            yield self.writing
        except BaseException:
            shutil.rmtree(self.writing, ignore_errors=True)
            raise

    def publish(self) -> None:
        """Gives the filled directory its name; a former one stays readable until then."""
        follow_umask(self.writing)
        sync_tree(self.writing)
        if self.is_inside:
            self._move_in()
        else:
            self._rename()

    def _rename(self) -> None:
        replaced = _replaced_name(self.final)
        if self.final.exists():
            shutil.copymode(self.final, self.writing)
            try:
                self.final.rename(replaced)
            except OSError:  # some file systems refuse unpredictably (a lower layer of an overlay)
                inside = replace(self, is_inside=True)
                shutil.move(self.writing, inside.writing)
                inside.publish()
                return
        self.writing.rename(self.final)
        sync(self.final.parent)
        shutil.rmtree(replaced, ignore_errors=True)

    def _move_in(self) -> None:
        """Can be called again after an interruption at any point."""
        record, set_aside = self.final / RUN_FILE, self.writing / _REPLACED_RECORD
        if record.is_file() and not set_aside.is_file():
            record.rename(set_aside)  # from here on the former result counts as absent
            sync(self.final)
        if set_aside.is_file():
            remove_entries(self.final, read_record_file(set_aside).files)
            set_aside.unlink()
        for child in self.writing.iterdir():
            if child.name != RUN_FILE:
                _merge_into(child, self.final / child.name)
        for directory in (path for path in self.final.rglob("*") if path.is_dir()):
            sync(directory)
        if (self.writing / RUN_FILE).is_file():
            (self.writing / RUN_FILE).rename(record)
        self.writing.rmdir()
        sync(self.final)


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yields a directory to fill; on success syncs it and renames it to ``final``, on an exception removes it.

    For directories that only the program uses: an existing ``final`` is replaced whatever it holds; ``produce`` checks
    first.
    """
    place = Place(final)
    with place.fill() as temporary:
        yield temporary
    place.publish()


def writing_name(final: Path) -> Path:
    """Where ``atomic_directory`` keeps what is not complete yet."""
    return Place(final).writing


def _replaced_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


def _restore_interrupted(final: Path) -> None:
    """Repairs an interruption between the two renames: the replaced directory still exists under its other name."""
    replaced = _replaced_name(final)
    if replaced.exists():
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)


def _merge_into(source: Path, target: Path) -> None:
    """Moves a file, or a directory's children one by one where ``target`` has some already."""
    if source.is_dir() and not source.is_symlink() and target.is_dir():
        for child in source.iterdir():
            _merge_into(child, target / child.name)
        source.rmdir()
    else:
        source.replace(target)


def _can_be_renamed(directory: Path) -> bool:
    here = Path.cwd()
    if directory == here or directory in here.parents:
        return False  # possible, but a shell there would be left in a deleted directory
    return os.access(directory.parent, os.W_OK | os.X_OK) and not _is_mount_point(directory)


def _is_mount_point(directory: Path) -> bool:
    """Also a bind mount of the same file system, which ``os.path.ismount`` does not see."""
    if directory.is_mount():
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    mounted = (line.split(" ")[4] for line in lines)  # proc(5): a space in a name is \040
    return str(directory) in (name.replace("\\040", " ") for name in mounted)
