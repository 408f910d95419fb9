"""What was run: model, data, size, time and versions, a column for each run; and the origin of all inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3emb_train.evaluation.report.inputs import TrainingRun, is_number
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.lineage import RunRecord
from qwen3emb_train.pages.page import MISSING, Cell, Table


def summary_section(runs: Sequence[TrainingRun]) -> Section:
    """A column for each training run."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for one in facts for name in one))
    rows = [[name, *(one.get(name, MISSING) for one in facts)] for name in names]
    table = Table(["", *(run.name for run in runs)], rows, num_names=1 + len(runs))
    return Section("runs", "What was run", content={"facts": table})


def origin_section(records: Mapping[str, RunRecord | None]) -> Section:
    """Of everything on the page: which program made it, when, with which versions, from which inputs."""
    rows: list[list[Cell | str]] = []
    inputs = []
    for name, record in records.items():
        shown = (record.program, record.finished, *_versions(record)) if record else (MISSING,) * 4
        rows.append([name, *shown])
        if record and record.inputs:
            digests: list[list[Cell | str]] = [
                [key, Cell(digest, mark="code")] for key, digest in record.inputs.items()
            ]
            inputs.append((name, Table(["input", "SHA-256 of its contents"], digests, num_names=2)))
    programs = Table(["", "program", "finished (UTC)", "commit", "versions"], rows, num_names=5)
    return Section("origin", "Where it comes from", content={"programs": programs, "inputs": inputs})


def seconds_of(run: TrainingRun) -> float | None:
    """Time in training steps, from the tokens between recorded steps and the speed there; None without these metrics.

    Each line has the speed of one step, which is assumed for all steps since the line before.
    """
    seconds, before = 0.0, 0.0
    for line in run.lines:
        speed, tokens = line.get("tokens_per_second"), line.get("tokens_seen")
        if is_number(speed) and is_number(tokens) and speed > 0:
            seconds += (tokens - before) / speed
            before = tokens
    return seconds or None


def duration(seconds: float) -> str:
    """E.g. "3 min 20 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _facts(run: TrainingRun) -> dict[str, str]:
    config: dict[str, Any] = run.record.config if run.record else {}
    model, loss = config.get("model") or {}, config.get("loss") or {}
    facts = {
        "program": run.record.program if run.record else "",
        "model": str(model.get("path", "")),
        "layers": f"first {model['num_layers']}" if model.get("num_layers") else "",
        "LoRA": f"rank {model['lora']['rank']}" if (model.get("lora") or {}).get("rank") else "",
        "data": ", ".join(f"{name} ({source.get('path')})" for name, source in (config.get("data") or {}).items()),
        "loss": str(loss.get("name", "")),
        "steps": _steps(run, config),
        "batch size": _count(config.get("batch_size")),
        "examples": _count(run.last("examples_seen")),
        "tokens": _count(run.last("tokens_seen")),
        "time in steps": duration(seconds) if (seconds := seconds_of(run)) else "",
        "peak learning rate": f"{lr:g}" if is_number(lr := (config.get("optimizer") or {}).get("lr")) else "",
        "Matryoshka dims": ", ".join(map(str, config.get("matryoshka_dims") or [])),
        "precision": str(config.get("precision", "")),
        "seed": str(config.get("seed", "")),
        "first loss": _loss(run.series("loss")[1][:1]),
        "last loss": _loss(run.series("loss")[1][-1:]),
        "finished (UTC)": run.record.finished if run.record else "",
    }
    if run.record:
        facts["commit"], facts["versions"] = _versions(run.record)
    return {name: fact for name, fact in facts.items() if fact}


def _steps(run: TrainingRun, config: Mapping[str, Any]) -> str:
    done, planned = run.lines[-1]["step"], config.get("steps")
    return f"{done:,}" if planned in (None, done) else f"{done:,} recorded of {planned:,}"


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else ""


def _loss(values: Sequence[float]) -> str:
    return f"{values[0]:.4f}" if values else ""


def _versions(record: RunRecord) -> tuple[str, str]:
    versions = record.environment.get("versions") or {}
    shown = [f"Python {record.environment.get('python', '?')}", *(f"{name} {v}" for name, v in versions.items())]
    return str(record.environment.get("git_commit") or MISSING), ", ".join(shown)
