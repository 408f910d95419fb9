"""R2, R9: a run goes on with other ranks and another engine; order and learning rate do not know how many there are."""

import re
from typing import Any

from safetensors.torch import load_file

from tests.training.faults.launcher import Launcher, Problem, contents
from tests.training.faults.test_non_finite_ranks import ENGINES

STOP = {"point": "batch", "rank": 0, "do": "SIGTERM"}


def test_a_run_wanders_between_engines_and_ends_where_it_would_have(launcher: Launcher, problem: Problem) -> None:
    """One rank, FSDP2 on 4 and 2, DDP on 2, one again: learning rates and weights of a run that stayed on one."""
    settings = ("optimizer.lr=1e-4", "optimizer.eps=1e-6")
    alone = launcher.run(problem.command("stayed", *settings))
    assert alone.codes == [0], alone.logs
    wandering = problem.command("wandered", *settings)
    legs = [(1, {}, 1), (4, ENGINES["fsdp2"], 2), (2, ENGINES["fsdp2"], 4), (2, ENGINES["ddp"], 5), (1, {}, None)]
    lrs: dict[int, float] = {}
    for num_ranks, environment, stop_after in legs:
        faults = [] if stop_after is None else [STOP | {"step": stop_after - 1}]
        ended = launcher.run(wandering, num_ranks, faults, environment=environment)
        assert ended.codes == [75 if faults else 0] * num_ranks, ended.logs
        if environment == ENGINES["fsdp2"]:
            assert "weights: each rank read its own part" in ended.logs[0], ended.logs[0]
        lrs |= {step: record["lr"] for step, record in ended.trace[0].items()}
    assert lrs == {step: record["lr"] for step, record in alone.trace[0].items()}
    start = load_file(problem.directory / "model" / "model.safetensors")
    one, other = (
        load_file(problem.directory / name / "model" / "model.safetensors") for name in ("wandered", "stayed")
    )
    difference = max(float((one[name] - other[name]).norm() / other[name].norm()) for name in other)
    moved = max(float((start[name] - other[name]).norm() / other[name].norm()) for name in other)
    assert difference < 1e-6 < 1e-4 < moved, (difference, moved)


def test_zero_goes_on_to_the_bit_on_its_own_engine_and_is_refused_elsewhere(
    launcher: Launcher, problem: Problem
) -> None:
    command = problem.command("zero", "validation_data.held.path=-", "steps=3", "save_every=-")
    zero: dict[str, Any] = {"environment": ENGINES["zero2"], "preload": ["deepspeed"]}
    whole = launcher.run(
        problem.command("zero_whole", "validation_data.held.path=-", "steps=3", "save_every=-"), 2, **zero
    )
    assert whole.codes == [0, 0], whole.logs
    assert launcher.run(command, 2, [STOP | {"step": 0}], **zero).codes == [75, 75]
    refused = launcher.run(command, 1)
    assert refused.codes == [2], refused.logs
    wanted = (
        r"laid out as 'zero2 on 2 ranks', this run needs 'rows'. Start with the same engine and number of processes"
    )
    assert re.search(wanted, refused.logs[0]), refused.logs[0]
    again = launcher.run(command, 2, **zero)
    assert again.codes == [0, 0], again.logs
    assert again.first_step == 1
    expected = contents(problem.checkpoint("zero_whole", 3))
    assert contents(problem.checkpoint("zero", 3)) == expected
    assert "state/pieces_00001.safetensors" in expected


def test_the_best_checkpoint_outlives_keep_last(launcher: Launcher, problem: Problem) -> None:
    """A learning rate that ruins the model: the first validation stays the best."""
    ended = launcher.run(
        problem.command("best", "optimizer.lr=3", "validation.every=1", "keep_last=1", "validation.best_by=loss")
    )
    assert ended.codes == [0], ended.logs
    best, *rest = problem.published("best")
    assert rest == [7]
    state = (problem.checkpoint("best", 7) / "state" / "state.json").read_text()
    assert f'"best_step": {best}' in state
    assert best < 7


def test_ranks_that_see_different_checkpoints_refuse_to_begin(launcher: Launcher, problem: Problem) -> None:
    """Two machines without a common file system: one finds the checkpoint, the other nothing."""
    command = problem.command("apart")
    assert launcher.run(command, 1, [STOP | {"step": 1}]).codes == [75]
    ended = launcher.run(command, 2, [{"point": "start", "rank": 1, "do": "see no checkpoints"}])
    assert ended.codes == [2, 2], ended.logs
    assert all("would begin at steps [2, 0]" in log and "all machines share" in log for log in ended.logs)
