"""R11 and R6 through the real launcher: a rank that dies, or is asked to stop, ends the job in bounded time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.faults.launcher import REPOSITORY, Ended, Launcher, Problem, contents


@pytest.mark.slow
def test_under_accelerate_launch_a_signal_saves_and_a_dead_rank_ends_the_job(
    launcher: Launcher, problem: Problem, unbroken: dict[int, Ended], tmp_path: Path
) -> None:
    """The launcher's own exit code is 1 either way: that the job was stopped, not broken, is in the ranks' codes."""

    def launch(fault: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        job = tmp_path / "job.json"
        job.write_text(
            json.dumps({"arguments": problem.command("launched"), "faults": [fault], "directory": str(tmp_path)})
        )
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
             "-m", "tests.training.faults.server", str(job)],
            cwd=REPOSITORY, env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        print(time.monotonic() - started, ended.stderr)
        return ended

    stopped = launch({"point": "gradients", "step": 0, "rank": 1, "do": "SIGTERM"})
    assert stopped.returncode == 1
    assert stopped.stdout.count("stopped by a signal after step 1; saved") == 2
    assert "exitcode  : 75" in stopped.stderr
    assert problem.published("launched") == [1]
    broken = launch({"point": "updated", "step": 4, "rank": 1, "do": "SIGKILL"})
    assert broken.returncode == 1
    assert "exitcode  : -9" in broken.stderr
    assert problem.published("launched")[-1] == 4
    assert launcher.run(problem.command("launched"), 2).codes == [0, 0]
    assert contents(problem.checkpoint("launched", 7)) == contents(problem.checkpoint("unbroken_2", 7))
