"""Nothing in a checkpoint is executed when it is read, and what is damaged is named with the remedy."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.training.faults.launcher import Ended, Launcher, Problem, contents

# Where torch, DCP, accelerate, transformers, peft and numpy would look for something to unpickle.
CANARIES = [
    "state/optimizer.pt", "state/rng_state.pth", "state/.metadata", "state/__0_0.distcp", "state/pieces_00001.npy",
    ".metadata", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "training_args.bin", "rng_state.pth",
    "model/adapter_model.bin", "model/training_args.bin", "model/tokenizer.pkl", "model/.metadata",
    "model/pytorch_model.bin",
]  # fmt: skip


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.open, (str(self.target), os.O_CREAT | os.O_WRONLY)


@pytest.fixture
def stopped(problem: Problem, unbroken: dict[int, Ended], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a run that was stopped after 6 steps; returns its checkpoint."""

    def make(output: str) -> Path:
        target = problem.checkpoint(output, 6)
        shutil.copytree(problem.checkpoint("unbroken_1", 6), target)
        return target

    return make


def test_planted_pickles_are_never_read(
    launcher: Launcher, problem: Problem, stopped: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint, target = stopped("canaries"), tmp_path / "canary"
    for name in CANARIES:
        (checkpoint / name).write_bytes(pickle.dumps(Canary(target)))
    os.close(pickle.loads((checkpoint / CANARIES[0]).read_bytes()))
    assert target.exists(), "the canary is dead: the test would be vacuous"
    target.unlink()
    ended = launcher.run(problem.command("canaries"))
    assert ended.codes == [0], ended.logs
    assert not target.exists()
    assert contents(problem.checkpoint("canaries", 7)) == contents(problem.checkpoint("unbroken_1", 7))


def test_a_pickle_in_place_of_a_file_that_is_read_is_refused(
    launcher: Launcher, problem: Problem, stopped: Callable[[str], Path], tmp_path: Path
) -> None:
    target = tmp_path / "canary"
    for number, name in enumerate(
        ("state/state.json", "state/pieces_00000.json", "state/pieces_00000.safetensors", "model/model.safetensors")
    ):
        checkpoint = stopped(f"pickled_{number}")
        (checkpoint / name).write_bytes(pickle.dumps(Canary(target)))
        ended = launcher.run(problem.command(f"pickled_{number}"))
        assert ended.codes == [2], ended.logs
        assert not target.exists()
        assert_names_file_and_remedy(ended, checkpoint / name)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def drop_a_row(path: Path) -> None:
    path.write_text(path.read_text().replace('"num_rows": 32', '"num_rows": 31'))


def drop_a_parameter(index: Path) -> None:
    """As if the file of a rank that alone held it were gone."""
    file, of_other = index.with_suffix(".safetensors"), json.loads(index.read_text())
    kept = {key: tensor for key, tensor in load_file(file).items() if not key.startswith("backbone.norm.weight/")}
    save_file(kept, file)
    index.write_text(json.dumps({key: of_other[key] for key in kept}))


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("state/state.json", truncate),
    ("state/state.json", lambda path: path.write_text("[]")),
    ("state/state.json", Path.unlink),
    ("state/pieces_00000.json", truncate),
    ("state/pieces_00000.json", lambda path: path.write_text('{"backbone.norm.weight/exp_avg": 3}')),
    ("state/pieces_00000.json", lambda path: path.write_text("{}")),
    ("state/pieces_00000.json", lambda path: path.write_text(path.read_text().replace("exp_avg_sq", "nonsense"))),
    ("state/pieces_00000.json", drop_a_row),
    ("state/pieces_00000.json", drop_a_parameter),
    ("state/pieces_00000.safetensors", truncate),
    ("state/pieces_00000.safetensors", Path.unlink),
    ("model/model.safetensors", truncate),
    ("model/model.safetensors", Path.unlink),
]


def test_a_damaged_checkpoint_is_refused_by_name_with_the_remedy(
    launcher: Launcher, problem: Problem, stopped: Callable[[str], Path]
) -> None:
    for number, (name, damage) in enumerate(DAMAGES):
        checkpoint = stopped(f"damaged_{number}")
        damage(checkpoint / name)
        (
            checkpoint / "state" / "digests_00000.json"
        ).unlink()  # of an older version, or whoever damaged it was thorough
        ended = launcher.run(problem.command(f"damaged_{number}"))
        assert ended.codes == [2], (number, name, ended.logs)
        assert_names_file_and_remedy(ended, checkpoint / name)


@pytest.mark.parametrize("name", ["model/model.safetensors", "state/pieces_00000.safetensors", "model/tokenizer.json"])
def test_a_flipped_bit_is_named_and_not_trained_on(
    launcher: Launcher, problem: Problem, stopped: Callable[[str], Path], name: str
) -> None:
    output = f"flipped_{name.replace('/', '_')}"
    checkpoint = stopped(output)
    content = bytearray((checkpoint / name).read_bytes())
    content[-9] ^= 1
    (checkpoint / name).write_bytes(content)
    ended = launcher.run(problem.command(output))
    assert ended.codes == [2], ended.logs
    assert f"{checkpoint / name}: its bytes are not those that were written" in ended.logs[0]
    assert_names_file_and_remedy(ended, checkpoint / name)


def test_an_index_cannot_point_outside_the_checkpoint(
    launcher: Launcher, problem: Problem, stopped: Callable[[str], Path], tmp_path: Path
) -> None:
    """State files are found by listing the directory; a model's index may name its neighbours only."""
    checkpoint, elsewhere = stopped("outside"), tmp_path / "elsewhere.safetensors"
    shutil.copy(checkpoint / "model" / "model.safetensors", elsewhere)
    pieces = checkpoint / "state" / "pieces_00000.json"
    named = {key: entry | {"file": str(elsewhere)} for key, entry in json.loads(pieces.read_text()).items()}
    pieces.write_text(json.dumps(named))
    (checkpoint / "state" / "digests_00000.json").unlink()
    assert launcher.run(problem.command("outside")).codes == [0]  # nobody asks for a name
    checkpoint = stopped("outside_model")
    index = checkpoint / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"norm.weight": os.path.relpath(elsewhere, index.parent)}}))
    ended = launcher.run(problem.command("outside_model"))
    assert ended.codes == [2], ended.logs
    assert "elsewhere.safetensors', which is not a file beside it" in ended.logs[0]
    assert_names_file_and_remedy(ended, index)


def assert_names_file_and_remedy(ended: Ended, path: Path) -> None:
    message = ended.logs[0][ended.logs[0].index("error: ") :]
    assert str(path.parent) in message, message
    assert "Delete this checkpoint" in message, message
    assert "Traceback" not in message, message
