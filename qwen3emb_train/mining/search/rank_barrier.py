"""A barrier through files: a work directory is removed only when no rank, however late, still reads in it.

A rank that is done touches a file of its own until the directory is gone. So the first rank may delete such files
before it counts them: those of a killed run do not come back.
"""

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

from qwen3emb_train.distributed import launched_rank, launched_world_size

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 60
logger = logging.getLogger(__name__)


def wait_for_removal(work_dir: Path) -> None:
    """For all ranks but the first: signals being done until the directory is gone."""
    with suppress(FileNotFoundError):
        while True:
            _done_file(work_dir, launched_rank()).touch()
            time.sleep(_POLL_SECONDS)


def wait_for_others(work_dir: Path) -> None:
    """For the first rank: returns when all others are done with the directory."""
    files = [_done_file(work_dir, rank) for rank in range(1, launched_world_size())]
    for file in files:
        file.unlink(missing_ok=True)
    reported = time.monotonic()
    while missing := [file for file in files if not file.exists()]:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            logger.warning("%s: still waiting for %d ranks to be done", work_dir, len(missing))


def remove(work_dir: Path) -> None:
    """For the first rank: removes the directory after a rename, since the others still touch their files."""
    removed = work_dir.with_name(f".{work_dir.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    work_dir.rename(removed)
    shutil.rmtree(removed)


def _done_file(work_dir: Path, rank: int) -> Path:
    return work_dir / f"rank_{rank}.done"
