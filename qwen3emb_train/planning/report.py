"""A plan as text of one screen."""

from collections.abc import Callable

from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.gpus import GIB, GPUS
from qwen3emb_train.planning.plan import Plan, PlanColumn

_WIDTH = 11


def format_plan(plan: Plan, config: PlanConfig) -> str:
    """The plan as text: model, data, memory, time, disk and refusals."""
    gpu = GPUS[config.gpu]
    model, row = plan.model, plan.row
    lines = [
        f"plan  {config.model.path} on {config.gpu}, engine {config.engine.value}, "
        f"{'bf16 autocast over fp32 weights' if plan.bf16 else 'fp32'}",
        "",
        f"model {_count(model.total)} parameters ({_count(model.products)} in the layers' products), "
        f"{_count(model.trained)} trained" + (f" (LoRA rank {model.lora_rank})" if model.lora_rank else ""),
        f"rows  {row.query_tokens:.0f} tokens a query, {row.positives:.1f} positives and {row.negatives:.1f} hard "
        f"negatives of {row.document_tokens:.0f} tokens",
        f"      ({row.origin})",
        f"step  {config.batch_size:,} queries, {config.batch_size * row.tokens:,.0f} tokens; negatives a query at most "
        f"{sum(plan.negatives.values()):,}" + _terms(plan.negatives),
        f"run   {plan.steps:,} steps, {_count(plan.steps * config.batch_size)} rows seen"
        + (f" of {_count(row.rows)} ({plan.steps * config.batch_size / row.rows:.1f} epochs)" if row.rows else "")
        + f", {_count(plan.steps * config.batch_size * row.tokens)} tokens",
        f"disk  {plan.disk.checkpoint / GIB:.1f} GiB a checkpoint, {plan.disk.checkpoints / GIB:.1f} GiB at most"
        + (f", token ids {plan.disk.token_store / GIB:.2f} GiB" if plan.disk.token_store is not None else ""),
        "",
        _row("GPUs", plan, lambda column: f"{column.num_gpus:,}"),
        "memory of one GPU, GiB",
    ]
    for name in plan.columns[0].memory.parts:
        if any(column.memory.parts[name] >= 0.005 * GIB for column in plan.columns):
            lines.append(_row(f"  {name}", plan, lambda column, name=name: _gib(column.memory.parts[name])))  # type: ignore[misc]
    lines += [
        _row("  largest at", plan, lambda column: column.memory.moment),
        _row(
            f"  total of {gpu.memory / GIB:.1f}" if gpu.memory else "  total",
            plan,
            lambda column: _gib(column.memory.total),
        ),
        _row("  tokens a GPU and step", plan, lambda column: f"{column.load.tokens:,}"),
        _row("  chunks (with graph)", plan, lambda column: f"{len(column.load.chunks):,} ({column.load.num_kept:,})"),
        "time (estimate)",
        _row("  encoder, s a step", plan, lambda column: f"{column.time.encoder:.3g}"),
        _row("  loss", plan, lambda column: f"{column.time.loss:.2g}"),
        _row("  weights and gradients", plan, lambda column: f"{column.time.exchange:.2g}"),
        _row("  vectors", plan, lambda column: f"{column.time.gather:.2g}"),
        _row("  AdamW", plan, lambda column: f"{column.time.update:.2g}"),
        _row("  tokens/s a GPU", plan, lambda column: f"{column.load.tokens / column.time.total:,.0f}"),
        _row("  MFU (without recomputing)", plan, lambda column: f"{_mfu(column, plan, config):.0%}"),
        _row("  whole run", plan, lambda column: _duration(column.hours)),
        _row("  GPU-hours", plan, lambda column: f"{column.hours * column.num_gpus:,.1f}"),
    ]
    if config.price_per_gpu_hour is not None:
        price = config.price_per_gpu_hour
        lines.append(_row("  cost", plan, lambda column: f"{column.hours * column.num_gpus * price:,.0f}"))
    lines += [
        "",
        f"time: kernels of the real modules at {config.gpu}'s rates, "
        f"{plan.columns[0].time.elementwise_share:.0%} of a pass in element-wise ones; "
        f"{plan.columns[0].time.flop_per_token / model.products:.1f} FLOP a token",
        "and parameter (recomputing and attention included); nothing overlapped; never run on a GPU by us",
        *plan.dry_run,
        *(f"warning: {warning}" for warning in plan.warnings),
        *(f"REFUSED: {refusal}" for refusal in plan.refusals),
        *(f"REFUSED on {column.num_gpus} GPUs: {refusal}" for column in plan.columns for refusal in column.refusals),
    ]
    return "\n".join(lines)


def _row(name: str, plan: Plan, value: Callable[[PlanColumn], str]) -> str:
    return f"{name:<27}" + "".join(f"{value(column):>{_WIDTH}}" for column in plan.columns)


def _terms(negatives: dict[str, int]) -> str:
    return " (" + ", ".join(f"{name} {count:,}" for name, count in negatives.items()) + ")" if negatives else ""


def _mfu(column: PlanColumn, plan: Plan, config: PlanConfig) -> float:
    return column.load.tokens * column.time.model_flop_per_token / column.time.total / _peak(plan, config)


def _peak(plan: Plan, config: PlanConfig) -> float:
    gpu = GPUS[config.gpu]
    return gpu.bf16_flops if plan.bf16 else gpu.fp32_flops


def _gib(size: float | int) -> str:
    return f"{size / GIB:,.2f}"


def _count(number: float | int) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:,.0f}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
