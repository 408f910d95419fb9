"""R1: a run that is killed again and again ends with the bits of one that was not.

At every start, the batches, learning rates, random draws and weights of each step are compared on each rank; at the end
the last checkpoint (weights, moments, counters) file by file.
"""

from dataclasses import dataclass

import pytest

from tests.training.faults.launcher import Ended, Launcher, Problem, assert_same_course, contents


@dataclass(frozen=True)
class Kill:
    """Where kill -9 strikes, the step from which the next start must go on, and what is published then."""

    point: str
    step: int
    goes_on_from: int


# Steps 0-2 are the first pass over the rows, 3-5 the second. Saved after 2, 4, 6 and 7 steps, validated after 3, 6, 7.
KILLS = [
    Kill("opening", -1, 0),
    Kill("batch", 0, 0),
    Kill("updated", 0, 0),  # before the first checkpoint
    Kill("pieces", 1, 0),  # the first checkpoint: between its state files and the rename
    Kill("publishing", 1, 0),
    Kill("published", 1, 2),
    Kill("validating", 2, 2),  # and it is the pass's edge: the next step begins the second pass
    Kill("gradients", 3, 3),  # the first validation was the best so far, so step 3 is kept
    Kill("saving", 3, 3),
    Kill("published", 3, 4),
    Kill("batch", 6, 6),  # the edge of the second pass
    Kill("validating", 6, 6),
    Kill("pieces", 6, 6),
    Kill("finishing", 6, 7),
]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_anywhere_it_ends_with_the_bits_of_the_unbroken_run(
    launcher: Launcher, problem: Problem, unbroken: dict[int, Ended], num_ranks: int
) -> None:
    output = f"killed_{num_ranks}"
    # Its own cache: the first start also tokenises, and is killed there.
    command = problem.command(output, f"cache_dir={problem.directory / f'cache_{num_ranks}'}")
    begins = 0
    for number, kill in enumerate(KILLS):
        victim = 0 if kill.point in ("opening", "publishing", "published", "finishing") else number % num_ranks
        fault = {"point": kill.point, "step": kill.step, "rank": victim, "do": "SIGKILL"}
        ended = launcher.run(command, num_ranks, [fault])
        assert ended.codes[victim] == -9, (kill, ended)
        assert 0 not in ended.codes, (kill, ended)
        assert not ended.had_to_kill, (kill, ended)
        if kill.point != "opening":
            begun = min(ended.trace[victim], default=None)  # the other rank may have been stopped before that
            assert begun == (begins if begins < 7 else None), (kill, ended)
        assert_same_course(ended, unbroken[num_ranks])
        begins = kill.goes_on_from
        assert not (problem.directory / output / "run.json").exists()
        saved = problem.published(output)
        assert (saved[-1] if saved else 0) == begins, kill
    last = launcher.run(command, num_ranks)
    assert last.codes == [0] * num_ranks, last.logs
    assert "continuing from" in last.logs[0]
    assert problem.published(output) == problem.published(f"unbroken_{num_ranks}")
    for step in problem.published(output):
        expected = contents(problem.checkpoint(f"unbroken_{num_ranks}", step))
        assert contents(problem.checkpoint(output, step)) == expected
        assert {"state/state.json", "state/pieces_00000.safetensors", "model/model.safetensors"} <= expected.keys()
    assert contents(problem.directory / output / "model") == contents(
        problem.directory / f"unbroken_{num_ranks}" / "model"
    )
    lines = [
        (problem.directory / name / "metrics.jsonl").read_text().splitlines()
        for name in (output, f"unbroken_{num_ranks}")
    ]
    assert len(lines[0]) == len(lines[1])
