"""select_checkpoints: the last, evenly spaced ones, or the best by the figures recorded since the checkpoint before."""

import json
from pathlib import Path

import pytest

from qwen3emb_train.merging.checkpoints import Selection, select_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints at 10, 20, ... 80, one half-written; a loss that falls until 60, with one lucky step at 80."""
    for step in range(10, 81, 10):
        (tmp_path / "checkpoints" / f"step_{step:06d}" / "model").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step_000090.writing" / "model").mkdir(parents=True)
    losses = {5: 9.0, 10: 8.0, 20: 7.0, 30: 6.0, 40: 5.0, 50: 2.0, 60: 1.0, 70: 3.0, 75: 8.0, 80: 0.5}
    lines = [json.dumps({"step": step, "loss": loss, "score": -loss}) for step, loss in losses.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def _steps(paths: list[Path]) -> list[int]:
    assert all(path.name == "model" for path in paths)
    return [int(path.parent.name.removeprefix("step_")) for path in paths]


@pytest.mark.parametrize(
    ("how", "count", "steps"),
    [
        (Selection.last, 3, [60, 70, 80]),
        (Selection.evenly, 2, [40, 80]),
        (Selection.evenly, 4, [20, 40, 60, 80]),
        (Selection.evenly, 8, [10, 20, 30, 40, 50, 60, 70, 80]),
        (Selection.evenly, 1, [80]),
        (Selection.lowest, 3, [50, 60, 70]),
    ],
)
def test_the_choice(run: Path, how: Selection, count: int, steps: list[int]) -> None:
    assert _steps(select_checkpoints(run, count, how)) == steps


def test_highest_is_lowest_of_the_negative(run: Path) -> None:
    lowest = select_checkpoints(run, 3, Selection.lowest)
    assert select_checkpoints(run, 3, Selection.highest, metric="score") == lowest
    assert select_checkpoints(run, 3, Selection.highest) != lowest


def test_every_even_choice_has_the_last_and_no_repeats(run: Path) -> None:
    for count in range(1, 9):
        steps = _steps(select_checkpoints(run, count, Selection.evenly))
        assert len(set(steps)) == count
        assert steps == sorted(steps)
        assert steps[-1] == 80


def test_too_few_checkpoints_are_listed(run: Path) -> None:
    with pytest.raises(ValueError, match=r"9 checkpoints are requested, and there are 8: steps \[10, .*keep_last"):
        select_checkpoints(run, 9)


def test_an_unknown_metric_is_named_with_the_known_ones(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no 'ndcg' between steps 0 and 10. Recorded there: \['loss', 'score'\]"):
        select_checkpoints(run, 2, Selection.highest, metric="ndcg")


def test_a_directory_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoints/step_NNNNNN/model"):
        select_checkpoints(tmp_path, 2)
