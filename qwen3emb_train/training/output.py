"""A training run's output directory: whose files it holds, its lock, and the deletion of a former run."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from qwen3emb_train.distributed import is_main_process, together
from qwen3emb_train.lineage import (
    LOCK_FILE,
    RUN_FILE,
    DirectoryLock,
    entries,
    own_paths,
    read_record,
    require_apart,
    require_claimable,
)

PLAN_FILE = "plan.json"
CHECKPOINTS, MODEL = "checkpoints", "model"
_WRITTEN = (
    CHECKPOINTS, MODEL, RUN_FILE, PLAN_FILE, "config.yaml", "metrics.jsonl", "health.json", "rejected_*.jsonl",
    "tensorboard", "wandb", "wandb_id.txt",
)  # fmt: skip


def require_own(output_dir: Path, program: str, inputs: Mapping[str, Path]) -> None:
    """Refuses a directory in which the run would delete or overwrite what no run of ``program`` wrote.

    Files of other names (a scheduler's log) may be in it; they stay as they are.

    Args:
        output_dir: may not exist yet.
        program: its name.
        inputs: name -> file or directory.

    Raises:
        ValueError: it is, holds or lies in an input, or holds such files; some of them are named.
    """
    require_apart(output_dir, inputs)
    if not _holds_checkpoints_of(output_dir, program):
        require_claimable(output_dir, program, _WRITTEN)
    foreign = [path for path in _children(output_dir / CHECKPOINTS) if not path.name.startswith(("step_", ".step_"))]
    record = read_record(output_dir) if (output_dir / RUN_FILE).is_file() else None
    if record is not None and (output_dir / MODEL).is_dir():
        written = {name.removeprefix(f"{MODEL}/") for name in record.files}
        foreign += [output_dir / MODEL / name for name in entries(output_dir / MODEL) if name not in written]
    if foreign:
        raise ValueError(
            f"{foreign[0]}: {program} did not write it and would delete it. Move it, or give another output_dir."
        )


@contextmanager
def held(output_dir: Path, device: torch.device) -> Iterator[None]:
    """One run at a time: the main process holds the lock, and every rank fails if it cannot."""
    with ExitStack() as locks:
        with together(device, "lock output_dir"):
            if is_main_process():
                locks.enter_context(DirectoryLock(output_dir / LOCK_FILE))
        yield


def delete_former(output_dir: Path) -> None:
    """Deletes what former runs wrote; after ``require_own``. First the record, then each part under another name."""
    (output_dir / RUN_FILE).unlink(missing_ok=True)
    for path in own_paths(output_dir, _WRITTEN):
        if not path.is_dir():
            path.unlink()
            continue
        real = path.resolve()  # a user may have put the checkpoints on another disk
        deleted = real.with_name(f".{real.name}.deleting")
        real.rename(deleted)
        shutil.rmtree(deleted)
        if path.is_symlink():
            real.mkdir()


def _holds_checkpoints_of(output_dir: Path, program: str) -> bool:
    """Whether its checkpoints are the program's by their own records: they may have been copied to be continued."""
    checkpoints = [path for path in _children(output_dir / CHECKPOINTS) if path.name.startswith("step_")]
    records = [read_record(path) if (path / RUN_FILE).is_file() else None for path in checkpoints]
    return bool(records) and all(record is not None and record.program == program for record in records)


def _children(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
