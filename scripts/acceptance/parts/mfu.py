"""Tokens/s and utilisation of whole steps by ``scripts/bench/mfu.py``, at the widths of three models.

Wide models get fewer layers: a layer's speed does not depend on how many there are, and AdamW's state of all of 8B does
not fit.
"""

import shutil
from typing import Any

import torch

from scripts.acceptance.part import Row, Setup
from scripts.bench import mfu as bench
from scripts.bench.random_steps import qwen3_shape, small_shape, write_random_model

# Size, layers, queries of a step.
FULL = (("0.6B", 28, (64, 1024)), ("4B", 6, (64, 512)), ("8B", 4, (64, 512)))
# What torch calls the card, and the planner's name of it.
CARDS = (("H200", "h200"), ("H100", "h100"), ("A100", "a100-80"), ("L40S", "l40s"), ("4090", "4090"))


def measure(setup: Setup) -> list[Row]:
    device = torch.device(setup.device)
    card = known_card(torch.cuda.get_device_name()) if setup.is_cuda else None
    peak = peak_tflops(card)
    rows = [
        Row("utilisation", "not computed: no card whose peak is known")
        if peak is None
        else Row("peak assumed, dense bf16", peak, "TFLOP/s")
    ]
    load = bench.Load(16, 200, 1, None) if setup.smoke else bench.Load(steps=2, peak_tflops=peak)
    for size, layers, queries in (("tiny", 2, (8,)),) if setup.smoke else FULL:
        shape = small_shape(layers) if setup.smoke else qwen3_shape(size, layers)
        model = write_random_model(setup.work / size, shape, device)
        if setup.is_cuda:
            torch.cuda.empty_cache()
        for row in bench.measure(model, list(queries), device, load):
            rows += rows_of(f"{size} width, {layers} layers", row)
        shutil.rmtree(model)
    return rows


def rows_of(model: str, row: dict[str, Any]) -> list[Row]:
    what = f"{model}, {row['queries']:,} queries, {'kept' if row['kept'] else 'replayed'}"
    if row.get("out_of_memory"):
        return [Row(what, "out of memory")]
    found = [Row(f"{what}: speed", row["tokens_per_second"], "tokens/s")]
    found += [Row(f"{what}: MFU", round(100 * row["mfu"], 1), "%")] if "mfu" in row else []
    return found + ([Row(f"{what}: peak memory", row["peak_gb"], "GB")] if "peak_gb" in row else [])


def known_card(name: str) -> str | None:
    """The planner's name of a card; None: it does not know it."""
    return next((key for words, key in CARDS if words in name), None)


def peak_tflops(card: str | None) -> float | None:
    from qwen3emb_train.planning.gpus import GPUS

    return None if card is None else round(GPUS[card].bf16_flops / 1e12, 1)
