"""The loss alone at one rank's 1,024 queries against 65,536 columns, by ``scripts/bench/loss_memory.py``.

Each form runs in a process of its own; "all terms" is Eq. 1 of arXiv 2506.05176, which the dense form does not have.
"""

import argparse

from scripts.acceptance.part import Row, Setup, within
from scripts.bench.loss_memory import run

SIDES = ("ours", "dense", "all terms")


def measure(setup: Setup) -> list[Row]:
    queries, columns, dim = (16, 128, 16) if setup.smoke else (1024, 65_536, 1024)
    arguments = argparse.Namespace(
        queries=queries, dim=dim, device=setup.device, limit_gb=2.0 if setup.smoke else 1000.0, cpu_seconds=False
    )
    found = {side: run(side, columns, arguments) for side in (SIDES[:2] if setup.smoke else SIDES)}
    shape = f"{queries:,} x {columns:,}, dim {dim:,}"
    rows: list[Row] = []
    for side, result in found.items():
        if isinstance(result, str):
            rows.append(Row(f"{shape}, {side}", result, ok=None if side == "dense" else False))
            continue
        rows += [
            Row(f"{shape}, {side}: forward and backward", round(1000 * result["seconds"], 2), "ms"),
            Row(f"{shape}, {side}: peak memory beside the vectors", round(result["peak_gb"], 3), "GB"),
        ]
    ours, dense = found["ours"], found["dense"]
    if not isinstance(ours, str) and not isinstance(dense, str):
        rows.append(
            within(f"{shape}: loss beside the dense one", abs(ours["loss"] / dense["loss"] - 1), 1e-4, "relative")
        )
    return rows
