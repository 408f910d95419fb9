"""Ranks that opened other files under the same path are refused on every rank, before the first step."""

from pathlib import Path

import pytest

from qwen3emb_train.distributed import rank
from qwen3emb_train.training.train_embedding import train_embedding
from tests.ranks import run_on_ranks
from tests.training.setup import make_config, write_rows


def refused(model: Path, files: list[Path], output_dir: Path) -> str:
    """What this rank is told that reads ``files[rank]``, as a host whose copy differs would."""
    with pytest.raises(ValueError, match="The ranks see other") as error:
        train_embedding(make_config(model, files[rank()], output_dir))
    return str(error.value)


def test_other_rows_or_other_contents_are_refused(tiny_qwen3: Path, tmp_path: Path) -> None:
    rows, fewer = write_rows(tmp_path / "rows.jsonl", 48), write_rows(tmp_path / "fewer.jsonl", 47)
    lines = rows.read_text().splitlines(keepends=True)
    swapped = tmp_path / "swapped.jsonl"
    swapped.write_text("".join([lines[1], lines[0], *lines[2:]]))  # as many rows and tokens
    for other, message in ((fewer, "rows of data.rows: [48, 47]"), (swapped, "contents of data, or read them")):
        output_dir = tmp_path / f"run_{other.stem}"
        for told in run_on_ranks(refused, 2, tiny_qwen3, [rows, other], output_dir):
            assert message in told
        assert not list(output_dir.rglob("metrics.jsonl"))
