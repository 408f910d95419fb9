"""The Slurm script of the synthesis, with stand-ins for Slurm's commands and for Python."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "slurm" / "synthesize.sbatch"
STAND_INS = {
    "srun": "exec sleep 60",
    "scontrol": 'if [ "$1" = requeue ]; then echo "$*" >> "$LOG"; else echo node1; fi',
    "curl": "exit 0",
    # Leaves with the code that $CODES holds for this stage; sleeps until SIGTERM where that is "stop".
    "python": """
stage=last
case "$*" in *dry_run=true*) stage=dry;; *process_index=*) stage=share;; esac
echo "$stage" >> "$LOG"
eval "code=\\$CODE_$stage"
if [ "$code" = stop ]; then trap 'exit 75' TERM; for _ in $(seq 200); do sleep 0.05; done; fi
if [ "$code" = plain ]; then for _ in $(seq 200); do sleep 0.05; done; fi
exit "$code"
""",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    codes = {f"CODE_{stage}": "0" for stage in ("dry", "share", "last")}
    return {
        **os.environ, **codes, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"),
        "PROCESSES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_GPUS_ON_NODE": "2",
    }  # fmt: skip


def log_of(environment: dict[str, str]) -> list[str]:
    path = Path(environment["LOG"])
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize(
    ("codes", "expected", "is_requeued"),
    [
        ({}, 0, False),
        ({"dry": "2"}, 2, False),
        ({"share": "2"}, 2, False),
        ({"share": "1"}, 0, False),
        ({"share": "75"}, 75, True),
        ({"last": "1"}, 1, False),
        ({"last": "2"}, 2, False),
        ({"last": "75"}, 75, True),
    ],
)
def test_only_a_stopped_run_is_requeued(
    environment: dict[str, str], codes: dict[str, str], expected: int, is_requeued: bool
) -> None:
    environment |= {f"CODE_{stage}": code for stage, code in codes.items()}
    done = subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, timeout=60)
    assert done.returncode == expected, done.stderr
    assert ("requeue 7" in log_of(environment)) == is_requeued


@pytest.mark.parametrize(("stage", "code"), [("dry", "plain"), ("dry", "stop"), ("share", "stop"), ("last", "stop")])
def test_the_signal_before_the_time_limit_stops_every_stage_and_requeues(
    environment: dict[str, str], stage: str, code: str
) -> None:
    """Also while the passages are prepared, which may take longer than anything else."""
    environment[f"CODE_{stage}"] = code
    with subprocess.Popen(["bash", SCRIPT], env=environment, stderr=subprocess.PIPE) as job:
        deadline = time.monotonic() + 30
        while stage not in log_of(environment):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
        _, told = job.communicate(timeout=30)
    assert job.returncode == 75, told
    assert "requeue 7" in log_of(environment)
