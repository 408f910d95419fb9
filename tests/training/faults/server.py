"""A small launcher: imports torch once, then starts ranks by fork, each with a launcher's environment variables.

Reads one job (JSON) a line from stdin and answers with one line. A rank runs the command line as a user would
(``front_door.main``), with the faults of the job planted (``planting``). When a rank fails, the others get what
torchrun gives them: SIGTERM, and SIGKILL after a while.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

GRACE_S = 20.0  # torchrun waits 30 s
PRELOADED = (
    "torch.distributed.fsdp", "transformers.models.qwen3.modeling_qwen3", "qwen3emb_train.configuration.compose",
    "qwen3emb_train.training.train_embedding", "tests.training.faults.torn_saves",
)  # fmt: skip
_composed: dict[tuple[str, ...], Any] = {}  # by the command's arguments


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Starts the ranks of a job and waits for all.

    Returns:
        ``codes`` (exit code of each rank; negative: the signal that killed it), ``logs``, ``seconds`` from the first
        exit (or signal) to the last exit, ``had_to_kill``.
    """
    if "deepspeed" in job.get("preload", ()):
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
    _compose_once(job["arguments"])
    directory = Path(job["directory"])
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = {_start(job, rank, port, directory): rank for rank in range(job["num_ranks"])}
    codes: dict[int, int] = {}
    first: float | None = None
    asked, had_to_kill, deadline = False, False, time.monotonic() + job.get("timeout_s", 100)
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        now = time.monotonic()
        if pid in running:
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
            first = now if first is None else first
        elif pid == 0:
            time.sleep(0.01)
        failed = any(codes.values())
        if failed and not asked:
            asked, deadline = True, now + GRACE_S
            for other in running:
                os.kill(other, signal.SIGTERM)
        if now > deadline:
            had_to_kill = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    logs = [(directory / f"log_{rank}.txt").read_text(errors="replace") for rank in range(job["num_ranks"])]
    seconds = time.monotonic() - (first or time.monotonic())
    return {
        "codes": [codes[rank] for rank in sorted(codes)],
        "logs": logs,
        "seconds": seconds,
        "had_to_kill": had_to_kill,
    }


def _compose_once(arguments: list[str]) -> None:
    """Composing the configuration takes as long as the steps; ranks and restarts find it done."""
    from qwen3emb_train.cli.programs import PROGRAMS
    from qwen3emb_train.configuration import compose
    from qwen3emb_train.configuration.arguments import parse_arguments

    key, plain = tuple(arguments), getattr(compose.compose, "plain", compose.compose)
    if key not in _composed:
        program = PROGRAMS["train_embedding"]
        _composed[key] = plain(program, parse_arguments(program, arguments))

    def composed(program: Any, request: Any) -> Any:
        return _composed[key]

    composed.plain = plain  # type: ignore[attr-defined]
    compose.compose = composed


def _start(job: dict[str, Any], rank: int, port: int, directory: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(directory / f"log_{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if job["num_ranks"] > 1 or "deepspeed" in job.get("preload", ()):
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["num_ranks"]),
                "LOCAL_WORLD_SIZE": str(job["num_ranks"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        os.environ |= job.get("environment", {})
        code = run_rank(job, rank)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_rank(job: dict[str, Any], rank: int) -> int:
    """The user's command with the job's faults planted."""
    from qwen3emb_train.cli.front_door import main
    from tests.training.faults.planting import plant

    plant(job, rank)
    return main(["train_embedding", *job["arguments"]])


if __name__ == "__main__":
    if sys.argv[1:]:  # under a real launcher: FILE holds the job
        sys.exit(run_rank(json.loads(Path(sys.argv[1]).read_text()), int(os.environ["RANK"])))
    serve()
