"""The tests' side of ``server``: a small training problem, commands on it, and what a run left behind."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qwen3emb_train

REPOSITORY = Path(qwen3emb_train.__file__).parents[1]
TRACED = ("batch", "lr", "draws", "weights")


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        directory: what the job left behind.
        codes: exit code of each rank; negative: the signal that killed it.
        logs: what each rank wrote.
        seconds: from the first rank's exit to the last one's.
        had_to_kill: the ranks left over did not leave by themselves.
        trace: what each rank recorded at each step it began: rank -> step -> record.
    """

    directory: Path
    codes: list[int]
    logs: list[str]
    seconds: float
    had_to_kill: bool
    trace: list[dict[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def first_step(self) -> int | None:
        return min(self.trace[0], default=None)


class Launcher:
    """Keeps a ``server`` process."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._jobs = directory, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.faults.server"],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self, arguments: Sequence[str], num_ranks: int = 1, faults: Sequence[dict[str, Any]] = (), **more: Any
    ) -> Ended:
        self._jobs += 1
        directory = self._directory / f"job_{self._jobs}"
        job = {
            "arguments": list(arguments), "num_ranks": num_ranks, "faults": list(faults), "directory": str(directory),
        } | more  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Ended(
            directory, **answer, trace=[read_trace(directory / f"trace_{rank}.jsonl") for rank in range(num_ranks)]
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@dataclass(frozen=True)
class Problem:
    """A model, 12 rows (three steps a pass), held-out rows.

    Attributes:
        directory: the runs' parent.
    """

    directory: Path

    def command(self, output: str, *changes: str) -> list[str]:
        """Arguments of a run of 7 steps: saved after 2, 4, 6 and 7, validated after 3, 6 and 7.

        Of two ranks, one often has one chunk where the other has two: then they must not wait for one another.
        """
        settings = {
            "model.path": self.directory / "model", "data.rows.path": self.directory / "rows.jsonl",
            "validation_data.held.path": self.directory / "held.jsonl", "validation.every": 3,
            "validation.batch_size": 4, "batch_size": 4, "steps": 7, "save_every": 2, "keep_last": 2, "log_every": 1,
            "health_every": 3, "tokens_per_chunk": 100, "precision": "fp32", "device": "cpu", "optimizer.lr": 1e-3,
            "cache_dir": self.directory / "cache", "output_dir": self.directory / output, "timeout_s": 60.0,
        }  # fmt: skip
        given = dict(change.split("=", 1) for change in changes)
        return [f"{key}={value}" for key, value in (settings | given).items() if value != "-"]

    def checkpoint(self, output: str, step: int) -> Path:
        return self.directory / output / "checkpoints" / f"step_{step:06d}"

    def published(self, output: str) -> list[int]:
        """Steps of the checkpoints that carry a checkpoint's name."""
        found = (self.directory / output / "checkpoints").glob("step_*")
        return sorted(int(path.name.removeprefix("step_")) for path in found)


def read_trace(path: Path) -> dict[int, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {record["step"]: record for record in map(json.loads, lines)}


def contents(directory: Path) -> dict[str, str]:
    """Digest of every file of a checkpoint but ``run.json`` (which holds times)."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def assert_same_course(ended: Ended, unbroken: Ended) -> None:
    """Batches, learning rate, random draws and weights of every step done are those of the unbroken run."""
    for rank, (own, expected) in enumerate(zip(ended.trace, unbroken.trace, strict=True)):
        for step, record in own.items():
            for name in TRACED:
                assert record[name] == expected[step][name], f"rank {rank}, step {step}: other {name}"
