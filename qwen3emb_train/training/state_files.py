"""Optimizer state on disk: safetensors pieces and a JSON index, readable by another number of ranks.

    state/pieces_00000.safetensors   what the first rank holds; one file a rank
    state/pieces_00000.json          {key: {"shape": of the whole, "first_row": ..., "num_rows": ...}}

torch's own distributed checkpoint (DCP) is not used: its ``.metadata`` is a pickle that runs what is planted in it
(docs/sources.md, "Measured here"). Nothing here can.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.lineage import write_text
from qwen3emb_train.training.engines.engine import Piece

DELETE_IT = "Delete this checkpoint, and an older one is used."


def write_pieces(directory: Path, pieces: Mapping[str, Piece], rank: int) -> None:
    """Writes this rank's pieces; nothing where it has none and is not the first.

    Args:
        directory: the ``state`` directory.
        pieces: ``Engine.optimizer_pieces``.
        rank: number of this rank.
    """
    from safetensors.torch import save_file

    if not pieces and rank > 0:
        return
    name = f"pieces_{rank:05d}"
    tensors = directory / f"{name}.safetensors"
    save_file({key: piece.rows.contiguous().cpu() for key, piece in pieces.items()}, tensors)
    with tensors.open("rb") as file:
        os.fsync(file.fileno())  # here: on a shared file system no other machine can do it for us
    index = {
        key: {
            "shape": list(piece.shape),
            "first_row": piece.first_row,
            "num_rows": len(piece.rows) if piece.shape else 1,
        }
        for key, piece in pieces.items()
    }
    write_text(directory / f"{name}.json", json.dumps(index))


class StoredPieces:
    """Reads rows of the stored tensors, from whichever files hold them.

    Args:
        directory: the ``state`` directory.

    Attributes:
        shapes: of the whole tensors, by key.

    Raises:
        ValueError: there is no index, or one cannot be read or does not match its safetensors file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[tuple[str, int, int]]] = {}  # key -> (file, first row, number of rows)
        self._open: dict[str, Any] = {}
        indices = sorted(directory.glob("pieces_*.json"))
        if not indices:
            raise ValueError(f"{directory}: no optimizer state in it. {DELETE_IT}")
        for path in indices:
            name = path.with_suffix(".safetensors").name
            stored = set(self._read(name, lambda file: file.keys()))
            try:
                index = json.loads(path.read_text(encoding="utf-8"))
                if stored != index.keys():
                    raise ValueError(f"{name} has other keys")
                for key, entry in index.items():
                    self.shapes[key] = tuple(entry["shape"])
                    place = (name, int(entry["first_row"]), int(entry["num_rows"]))
                    self._pieces.setdefault(key, []).append(place)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path}: damaged ({error!r}). {DELETE_IT}") from error

    def rows(self, key: str, first_row: int, num_rows: int) -> Tensor:
        """Rows ``first_row .. first_row + num_rows`` of a tensor; a scalar as it is.

        Args:
            key: of ``shapes``.
            first_row, num_rows: in the whole tensor.

        Raises:
            ValueError: they are not all there, or a file is damaged.
        """
        if not self.shapes[key]:
            return self._read(self._pieces[key][0][0], lambda file: file.get_tensor(key))
        found: dict[int, Tensor] = {}
        for name, first, count in self._pieces[key]:
            begin, end = max(first_row, first), min(first_row + num_rows, first + count)
            if begin < end:
                found[begin] = self._slice(name, key, begin - first, end - first)
        rows = torch.cat([found[begin] for begin in sorted(found)]) if found else torch.empty(0, *self.shapes[key][1:])
        if len(rows) != num_rows:
            raise ValueError(
                f"{self.directory}: rows {first_row}..{first_row + num_rows - 1} of {key} are not all there "
                f"({len(rows)} found). {DELETE_IT}"
            )
        return rows

    def _slice(self, name: str, key: str, begin: int, end: int) -> Tensor:
        return self._read(name, lambda file: file.get_slice(key)[begin:end])

    def _read(self, name: str, take: Callable[[Any], Any]) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            if name not in self._open:
                self._open[name] = safe_open(self.directory / name, framework="pt")
            return take(self._open[name])
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self.directory / name}: damaged ({error}). {DELETE_IT}") from error
