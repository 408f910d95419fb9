"""SHA-256 of a checkpoint's files, so that a flipped bit is named instead of trained on.

state/digests_00000.json   {name: SHA-256} of what the first rank wrote; one file a rank
"""

import json
from pathlib import Path

from qwen3emb_train.lineage import RUN_FILE, entries, file_digest, require_unchanged, write_text
from qwen3emb_train.training.state_files import DELETE_IT


def write_digests(checkpoint: Path, rank: int) -> None:
    """Notes the digests of what this rank has written; the first rank also of everything that no rank's name is on.

    Args:
        checkpoint: the directory; others may still be writing to it.
        rank: number of this rank.
    """
    own = f"state/pieces_{rank:05d}."
    names = [name for name in entries(checkpoint) if name.startswith(own) or (rank == 0 and _is_of_no_rank(name))]
    if names:
        digests = {name: file_digest(checkpoint / name) for name in names}
        write_text(checkpoint / "state" / f"digests_{rank:05d}.json", json.dumps(digests, indent=1))


def require_intact(checkpoint: Path, rank: int, num_ranks: int) -> None:
    """Reads this rank's share of the files again; those of checkpoints without digests are taken as they are.

    Args:
        checkpoint: the directory.
        rank, num_ranks: of this run; the one that wrote the checkpoint may have had more or fewer.

    Raises:
        ValueError: a file has other bytes than were written; names it.
    """
    for path in sorted((checkpoint / "state").glob("digests_*.json"))[rank::num_ranks]:
        try:
            require_unchanged(checkpoint, _read(path))
        except ValueError as error:
            raise ValueError(f"{error} {DELETE_IT}") from error


def _read(path: Path) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error}).") from error


def _is_of_no_rank(name: str) -> bool:
    return name != RUN_FILE and not name.startswith(("state/pieces_", "state/digests_", "state/."))
