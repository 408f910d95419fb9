"""R4: whatever fails while a checkpoint is written, one that can be loaded is there, and a torn one has no name.

Every file operation of a save (open for writing, safetensors' writing, fsync, mkdir, rename, removal of the old one)
fails or dies in turn, with ``keep_last=1``: the moment before the old checkpoint is deleted is the dangerous one.
"""

import json
from pathlib import Path

import pytest

from tests.training.faults.launcher import Launcher, Problem, contents

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # every rank has state to write; on one rank it is nothing


def only(problem: Problem, output: str, *changes: str) -> list[str]:
    """Without validation: then keep_last=1 leaves exactly one."""
    return problem.command(output, "validation_data.held.path=-", "keep_last=1", "log_every=100", *changes)


@pytest.fixture(scope="session")
def whole(launcher: Launcher, problem: Problem) -> dict[int, dict[str, dict[str, str]]]:
    """The contents of an unbroken run's checkpoints, by number of ranks and name."""
    found = {}
    for num_ranks in (1, 2):
        output = f"all_{num_ranks}"
        ended = launcher.run(only(problem, output, "keep_last=null"), num_ranks, environment=FSDP2)
        assert ended.codes == [0] * num_ranks, ended.logs
        found[num_ranks] = {
            f"step_{step:06d}": contents(problem.checkpoint(output, step)) for step in problem.published(output)
        }
    return found


def test_at_every_instant_of_a_save_one_whole_checkpoint_is_there(
    launcher: Launcher, problem: Problem, whole: dict[int, dict[str, dict[str, str]]]
) -> None:
    ended = launcher.run(only(problem, "torn"), 1, saves={"step": 4, "fork": True})
    assert ended.codes == [0], ended.logs
    outcomes = json.loads((Path(ended.directory) / "outcomes.json").read_text())
    kinds = {outcome["operation"].split()[0] for outcome in outcomes}
    assert {"open", "write", "written", "fsync", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} <= kinds
    operations = {outcome["operation"] for outcome in outcomes}
    assert {"fsync model", "fsync state", "fsync model.safetensors", "fsync state.json"} <= operations
    num_old = 0
    for outcome in outcomes:
        checkpoints = Path(outcome["directory"])
        published = {path.name: contents(path) for path in checkpoints.glob("step_*")}
        assert published, outcome
        assert all(published[name] == whole[1][name] for name in published), (outcome, published.keys())
        # A few failures are nobody's loss (a directory that is there already, an old one that is deleted next time).
        assert outcome["code"] in ([-9] if outcome["dies"] else [0, 3]), outcome
        assert outcome["code"] != 0 or "step_000004" in published, outcome
        num_old += "step_000004" not in published
        if (
            "step_000004" not in published
        ):  # the next attempt mends it, and leaves nothing of the old one and of the torn one
            again = {path.name: contents(path) for path in Path(outcome["directory"] + "_again").iterdir()}
            assert again == {"step_000004": whole[1]["step_000004"]}, outcome
    assert len(outcomes) / 2 < num_old < len(outcomes)


@pytest.mark.parametrize("struck", [0, 1])
def test_a_write_error_on_one_rank_is_raised_on_both_and_publishes_nothing(
    launcher: Launcher, problem: Problem, whole: dict[int, dict[str, dict[str, str]]], struck: int
) -> None:
    ended = launcher.run(only(problem, f"torn_on_{struck}"), 2, saves={"step": 4, "rank": struck}, environment=FSDP2)
    assert ended.codes == [0, 0], ended.logs
    ranks = [json.loads((Path(ended.directory) / f"outcomes_{rank}.json").read_text()) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) >= 4
    num_raised = 0
    for own, other in zip(ranks[struck], ranks[1 - struck], strict=True):
        assert own["published"], own
        if own["error"] or other["error"]:
            num_raised += 1
            assert "No space left" in own["error"], own
            assert "another rank could not" in other["error"], (own, other)
        else:
            assert "step_000004" in own["published"], own
        assert all(own["published"][name] == whole[2][name] for name in own["published"]), own["operation"]
        if own["operation"].startswith("write") or "pieces" in own["operation"]:
            assert list(own["published"]) == ["step_000002"], own
    assert num_raised > 0.6 * len(ranks[0])
