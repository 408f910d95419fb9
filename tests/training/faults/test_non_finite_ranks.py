"""R7: a NaN on one rank reaches no weight on any, and the message says step, rank, source and rows, on every engine."""

import re

import pytest

from tests.training.faults.launcher import Launcher, Problem

ENGINES: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero2": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    },
}


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_nan_on_one_rank_updates_no_weight_on_any(launcher: Launcher, problem: Problem, engine: str) -> None:
    """Step 1 is skipped, the run goes on; steps 3 and 4 are two in a row, one more than allowed."""
    vectors = {"point": "encoded", "rank": 1, "do": "NaN vectors"}
    gradients = {"point": "encoded", "rank": 1, "do": "NaN gradients" if engine == "ddp" else "NaN vectors"}
    ended = launcher.run(
        problem.command(
            f"nan_{engine}", "validation_data.held.path=-", "non_finite.action=skip", "non_finite.max_skipped=1",
            "save_every=1", "keep_last=null",
        ),
        2,
        [vectors | {"step": 1}, gradients | {"step": 3}, gradients | {"step": 4}],
        environment=ENGINES[engine],
        preload=["deepspeed"] if engine == "zero2" else [],
    )  # fmt: skip
    assert ended.codes == [2, 2], ended.logs
    assert problem.published(f"nan_{engine}") == [1, 2, 3, 4]
    for rank, trace in enumerate(ended.trace):
        weights = [trace[step]["weights"] for step in range(5)]
        assert weights[1] == weights[2], f"rank {rank}: the poisoned step 1 moved weights"
        assert weights[3] == weights[4], f"rank {rank}: the poisoned step 3 moved weights"
        assert len({weights[0], weights[1], weights[3]}) == 3, f"rank {rank}: the run did not go on"
    assert re.search(
        r"update left out: step 1, source rows, not finite: rank 1: vectors of rows row \d+", ended.logs[0]
    )
    for log in ended.logs:
        stopped = re.search(r"error: step 4, source rows, not finite: (.*)", log)
        assert stopped, log
        found, rest = stopped[1].split(". ", maxsplit=1)
        if engine == "ddp":  # reduced gradients are alike on all ranks: which parameters is what can be said
            assert found == "rank 0: gradients of norms; rank 1: gradients of norms"
        else:
            assert found.startswith("rank 1: vectors of rows row")
            assert "rank 0" not in found
        assert rest.startswith("No update was applied and the last checkpoint is intact. 1 steps in a row were skipped")


def test_the_rows_of_the_planted_texts_are_named(launcher: Launcher, problem: Problem) -> None:
    """By default the first NaN stops the run; only the poisoned rank's rows are in the message."""
    fault = {"point": "encoded", "rank": 1, "step": 2, "do": "NaN vectors"}
    command = problem.command("nan_stop", "validation_data.held.path=-")
    ended = launcher.run(command, 2, [fault])
    assert ended.codes == [2, 2]
    assert all("step 2, source rows, not finite: rank 1: vectors of rows row" in log for log in ended.logs)
    assert problem.published("nan_stop") == [2]
    again = launcher.run(command, 2)
    assert again.codes == [0, 0]
    assert again.first_step == 2
