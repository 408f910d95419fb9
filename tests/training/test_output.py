"""overwrite=true deletes what training wrote, last of all, and nothing else."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.training.config import TrainEmbeddingConfig
from qwen3emb_train.training.output import delete_former, held, require_own
from qwen3emb_train.training.train_embedding import train_embedding
from tests.test_output_directories import tree_digest

PROGRAM = "train_embedding"


def former_run(directory: Path) -> Path:
    for name in ("checkpoints/step_000002/model/w", "model/w", "metrics.jsonl", "plan.json", "config.yaml"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    lineage.claim(directory, PROGRAM)
    record = lineage.new_record(PROGRAM, {}, {})
    record.files.append("model/w")
    lineage.write_record(directory, record)
    return directory


def test_what_training_did_not_write_stays(tmp_path: Path) -> None:
    out = former_run(tmp_path / "out")
    (out / "train.log").write_text("a scheduler's")
    require_own(out, PROGRAM, {})
    delete_former(out)
    assert sorted(path.name for path in out.iterdir()) == [".program", "train.log"]


def test_checkpoints_on_another_disk_are_deleted_there(tmp_path: Path) -> None:
    out, disk = former_run(tmp_path / "out"), tmp_path / "disk"
    (out / "checkpoints").rename(disk)
    (out / "checkpoints").symlink_to(disk)
    delete_former(out)
    assert (out / "checkpoints").is_symlink()
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("foreign", ["checkpoints/notes.txt", "model/thesis.txt"])
def test_foreign_files_among_them_are_named(tmp_path: Path, foreign: str) -> None:
    out = former_run(tmp_path / "out")
    (out / foreign).write_text("mine")
    before = tree_digest(tmp_path)
    with pytest.raises(ValueError, match=f"{foreign}: train_embedding did not write it"):
        require_own(out, PROGRAM, {})
    assert tree_digest(tmp_path) == before


def test_a_directory_that_training_never_began_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "w").write_text("mine")
    with pytest.raises(ValueError, match=r"out holds what train_embedding did not write \(model\)"):
        require_own(tmp_path / "out", PROGRAM, {})


@pytest.mark.parametrize("fault", ["model inside", "no data", "batch too large"])
def test_a_refused_overwrite_leaves_all_earlier_results(tmp_path: Path, tiny_qwen3: Path, fault: str) -> None:
    out, pairs = former_run(tmp_path / "out"), tmp_path / "pairs.jsonl"
    rows = (f'{{"query": "q {number}", "positive": "p {number}"}}\n' for number in range(8))
    pairs.write_text("".join(rows))
    config = TrainEmbeddingConfig(
        output_dir=str(out), overwrite=True, steps=1, device="cpu", data={"p": SourceConfig()}
    )
    config.model.path = str(out / "model" if fault == "model inside" else tiny_qwen3)
    config.cache_dir = str(tmp_path / "cache")
    config.data["p"].path = str(tmp_path / "typo.jsonl" if fault == "no data" else pairs)
    config.batch_size = 400 if fault == "batch too large" else 4
    before = tree_digest(out)
    with pytest.raises((ValueError, FileNotFoundError)):
        train_embedding(config)
    assert tree_digest(out) == before


def test_of_two_runs_the_second_is_refused(tmp_path: Path) -> None:
    with (
        held(tmp_path, torch.device("cpu")),
        pytest.raises(lineage.OccupiedError, match=r"process .* has been writing there"),
        held(tmp_path, torch.device("cpu")),
    ):
        pass
