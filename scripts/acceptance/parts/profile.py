"""One step under torch.profiler: waits of the host, kernels, and how long the device has nothing to do.

Two steps run before it. "Synchronisations" are the calls by which the host waits for the device, in torch's own count
(``torch.cuda.set_sync_debug_mode``) with their lines, and in the driver's.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.precision import Precision, resolve_precision
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.objectives import EmbeddingObjective
from scripts.acceptance.part import Row, Setup
from scripts.bench.random_steps import (
    load_on,
    log_normal_lengths,
    qwen3_shape,
    random_batch,
    small_shape,
    whole_step,
    write_random_model,
)

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READS = "aten::_local_scalar_dense"  # .item(), float(tensor)


def measure(setup: Setup) -> list[Row]:
    device = torch.device(setup.device)
    shape = small_shape() if setup.smoke else qwen3_shape("0.6B", 28)
    encoder = load_on(write_random_model(setup.work / "model", shape, device), device)
    engine = SingleEngine(
        encoder, torch.optim.AdamW(encoder.parameters(), fused=True), resolve_precision(Precision.auto, device), device
    )
    lengths = log_normal_lengths(16 if setup.smoke else 512, 16 if setup.smoke else 128)
    batch = random_batch(lengths, shape.vocab_size)
    objective = EmbeddingObjective(engine, InfoNCE(), (), 100 if setup.smoke else 16_384, 0)
    step = whole_step(objective, engine, batch)
    step()
    step()
    sites = synchronising_lines(step) if setup.is_cuda else Counter()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.is_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        if setup.is_cuda:
            torch.cuda.synchronize()
    rows = [Row("tokens of the step", int(lengths.sum())), Row("weights", sum(p.numel() for p in encoder.parameters()))]
    rows += rows_of(list(profiler.events()), is_cuda=setup.is_cuda)
    rows += [Row(f"waits at {line}", count) for line, count in sites.most_common(8)]
    return rows


def rows_of(events: Sequence[Any], *, is_cuda: bool) -> list[Row]:
    """Counts and times out of the profiler's events."""
    rows = [Row("values read by the host (.item())", sum(event.name == READS for event in events))]
    if not is_cuda:
        return [*rows, Row("kernels, waits, idle share", "the CPU has no queue: measured on a GPU alone")]
    on_device = [event for event in events if str(event.device_type).endswith("CUDA")]
    spans = [(event.time_range.start, event.time_range.end) for event in on_device]
    copies = Counter(event.name for event in on_device if event.name.startswith(("Memcpy", "Memset")))
    rows += [
        Row("calls by which the host waits", sum(event.name in WAITS for event in events)),
        Row("kernels", len(on_device) - sum(copies.values())),
        *(Row(name, count) for name, count in copies.most_common()),
    ]
    if not spans:
        return [*rows, Row("idle share", "the profiler saw no kernel", ok=False, bound="kernels seen")]
    busy, whole = busy_time(spans), max(end for _, end in spans) - min(start for start, _ in spans)
    rows += [
        Row("from the first kernel to the last", round(whole / 1000, 2), "ms"),
        Row("device idle in between", round(100 * (1 - busy / whole), 1), "%"),
    ]
    by_name = Counter[str]()
    for event in on_device:
        by_name[event.name] += event.time_range.end - event.time_range.start
    for name, microseconds in by_name.most_common(6):
        rows.append(Row(f"time in {name[:60]}", round(100 * microseconds / whole, 1), "%"))
    return rows


def busy_time(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals: streams overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def synchronising_lines(step: Callable[[], object]) -> Counter[str]:
    """Where the host waits, by line."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits = [warning for warning in seen if "synchroniz" in str(warning.message)]
    return Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits)
