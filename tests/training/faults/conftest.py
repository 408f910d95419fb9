"""One server and one small problem for all fault tests; the unbroken runs that the others are compared with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.faults.launcher import Ended, Launcher, Problem
from tests.training.setup import write_rows


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("jobs"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def problem(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    directory = tmp_path_factory.mktemp("runs")
    (directory / "model").symlink_to(tiny_qwen3)
    write_rows(directory / "rows.jsonl", num_rows=12)
    write_rows(directory / "held.jsonl", num_rows=12)
    return Problem(directory)


@pytest.fixture(scope="session")
def unbroken(launcher: Launcher, problem: Problem) -> dict[int, Ended]:
    """By number of ranks; their results lie in ``unbroken_1`` and ``unbroken_2``."""
    runs = {ranks: launcher.run(problem.command(f"unbroken_{ranks}"), ranks) for ranks in (1, 2)}
    for ranks, ended in runs.items():
        assert ended.codes == [0] * ranks, ended.logs
        assert sorted(ended.trace[0]) == list(range(7))
    return runs
