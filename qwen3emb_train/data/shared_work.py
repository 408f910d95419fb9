"""Work that processes share through a directory: each piece is done by one of them and published whole.

What is right rests on two things only: a temporary name that nobody else uses, and a rename that fails where the final
name is taken. Claims merely save work: at worst a piece is done twice, and the second copy is thrown away.
"""

import errno
import json
import os
import shutil
import socket
import time
import uuid
from pathlib import Path

from qwen3emb_train.lineage.files import sync, sync_tree
from qwen3emb_train.lineage.locks import process_start

_SILENCE_S = 300.0  # a claim of another host that was not renewed for so long is nobody's


def unique_directory(parent: Path, name: str) -> Path:
    """A new directory under ``parent`` for a piece that will be published as ``name``."""
    path = parent / f".{name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.writing"
    path.mkdir(parents=True)
    return path


def publish(temporary: Path, final: Path) -> bool:
    """Syncs a flat directory and gives it its final name; False, and it is removed, where that name is taken."""
    sync_tree(temporary)
    try:
        temporary.rename(final)  # never replaces a directory that holds something
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(temporary)
        return False
    sync(final.parent)
    return True


class Claim:
    """A file that names who works on a piece, so that others take another one.

    It falls to the next who asks when its process has ended (on this host), or has not renewed it for minutes
    (on another host, whose processes cannot be seen).

    Args:
        path: of the file; its directory is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self) -> bool:
        """Whether the piece is now ours."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if self.is_held():
                    return False
                self.release()
                continue
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid())}
            with os.fdopen(descriptor, "w") as file:
                json.dump(owner, file)
            return True
        return False

    def is_held(self) -> bool:
        """Whether a process that may still be alive holds it."""
        try:
            age = time.time() - self.path.stat().st_mtime
            owner = json.loads(self.path.read_text())
            if owner["host"] == socket.gethostname():
                return process_start(owner["pid"]) == owner["started"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            return age < _SILENCE_S  # perhaps it is being written just now
        return age < _SILENCE_S

    def renew(self) -> None:
        """Called now and then by the holder."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return  # somebody took it for abandoned: the piece is done twice

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
