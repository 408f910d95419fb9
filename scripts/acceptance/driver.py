"""Runs the parts that are not done yet, each in a process of its own with a limit, and saves after each."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.acceptance.part import PARTS, Part
from scripts.acceptance.report import DONE, FAILED, LEFT_OUT, TABLE, read, write

ROOT = Path(__file__).resolve().parent.parent.parent
LOG = "gpu_acceptance.log"
ORDER = tuple(part.name for part in PARTS)


def run_all(output: Path, device: str, smoke: bool, hours: float, only: Sequence[str] = ()) -> int:
    """Runs what is missing.

    Args:
        output: where the three files go; results in it are continued.
        device: cuda or cpu.
        smoke: tiny shapes.
        hours: no part is started that does not fit into what is left of them.
        only: names of parts; empty = all.

    Returns:
        The exit code: 0, or 1 if a part failed.
    """
    results = read(output)
    output.mkdir(parents=True, exist_ok=True)
    here, ends = device_name(device), time.monotonic() + 3600 * hours
    for part in PARTS:
        if only and part.name not in only:
            continue
        if is_done(results.get(part.name), here, smoke):
            print(f"{part.name}: done before", flush=True)
            continue
        left = ends - time.monotonic()
        if left < part.least_s and not smoke:
            reason = f"needs about {part.least_s:.0f} s, {max(left, 0):.0f} s of --hours {hours:g} are left"
            results[part.name] = ended(LEFT_OUT, reason, 0.0, here, smoke)
        else:
            print(f"{part.name}: {part.summary}", flush=True)
            limit = left if part.limit_s is None else min(part.limit_s, max(left, part.least_s))
            results[part.name] = run_in_process(part, output, device, here, smoke, hours, limit)
        write(output, results, ORDER)
        result = results[part.name]
        print(f"  {result['status']} in {result['seconds']} s {result['reason']}".rstrip(), flush=True)
    print(f"\n{(output / TABLE).read_text(encoding='utf-8')}" if results else "")
    return int(any(result["status"] == FAILED for result in results.values()))


def is_done(result: dict[str, Any] | None, device: str, smoke: bool) -> bool:
    """Whether a result is there and is this device's, at this size."""
    return result is not None and (result["status"], result["device"], result["smoke"]) == (DONE, device, smoke)


def ended(status: str, reason: str, seconds: float, device: str, smoke: bool) -> dict[str, Any]:
    """A result without rows."""
    return {
        "status": status, "reason": reason, "seconds": round(seconds, 1), "device": device, "smoke": smoke, "rows": [],
    }  # fmt: skip


def run_in_process(
    part: Part, output: Path, device: str, here: str, smoke: bool, hours: float, limit_s: float
) -> dict[str, Any]:
    """The part's result, or why there is none; what it printed is appended to the log."""
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    environment |= {"OMP_NUM_THREADS": "1"} if smoke else {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work, (output / LOG).open("a", encoding="utf-8") as log:
        print(f"\n== {part.name}", file=log, flush=True)
        result = Path(work) / "result.json"
        command = [sys.executable, "-m", "scripts.acceptance.child", part.name, device, str(hours), str(int(smoke)),
                   work, str(result)]  # fmt: skip
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment | {"PYTHONPATH": path}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return ended(FAILED, f"ended after its limit of {limit_s:.0f} s", limit_s, here, smoke)
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
    reason = f"its process left with code {code}: see {LOG}"
    return ended(FAILED, reason, time.monotonic() - started, here, smoke)


def device_name(device: str) -> str:
    """As ``child.device``, in a process of its own: this one keeps off the GPU, which may be in exclusive mode."""
    if not device.startswith("cuda"):
        return "cpu"
    code = "import torch; print(torch.cuda.get_device_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
