"""Tables of a model card, from ``run.json`` and from the ``results.json`` of an evaluation.

Names, instructions and metrics come from untrusted files, so every cell is escaped to one line of plain text. Paths and
other free text of configurations may be private and are left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3emb_train.lineage import RunRecord

_LONGEST_CELL = 1000
# Characters with a meaning in Markdown, HTML, Jinja or LaTeX.
_ACTIVE = str.maketrans({sign: f"&#{ord(sign)};" for sign in "&<>`|[]{}*\\$~"})
_NOT_METRICS = ("verification", "prompts")
_SETTINGS: dict[str, tuple[str, ...] | None] = {
    "train_embedding": (
        "batch_size", "steps", "seed", "optimizer.lr", "optimizer.weight_decay", "schedule.kind",
        "schedule.warmup_ratio", "loss.name", "loss.temperature", "loss.hard_negatives", "loss.query_query",
        "loss.document_document", "loss.false_negative_margin", "matryoshka_dims", "lengths.max_query_tokens",
        "lengths.max_document_tokens", "model.num_layers", "model.bidirectional", "model.lora.rank",
        "model.lora.alpha", "precision",
    ),
    "mine_negatives": None,  # None: every number
    "merge": None,
    "merge_search": None,
}  # fmt: skip


def cell(value: Any) -> str:
    """A value as one line of plain text, with markup escaped."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return (text[:_LONGEST_CELL] + "…" if len(text) > _LONGEST_CELL else text).translate(_ACTIVE)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; cells are escaped, the header is not."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell(value) for value in row)} |" for row in rows)])


def ancestry(record: RunRecord) -> list[Mapping[str, Any]]:
    """The run and all its ancestors, the newest first, each once."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}

    def visit(run: Mapping[str, Any]) -> None:
        found.setdefault((run["program"], run["finished"]), run)
        for name, parent in run["parents"].items():
            if name != "scores":  # an evaluation is no input of the model
                visit(parent)

    visit(vars(record))
    return list(found.values())


def steps_table(record: RunRecord) -> str:
    """Programs, times and recorded metrics of the run and its ancestors."""
    rows = []
    for run in ancestry(record):
        kept = {name: value for name, value in run["metrics"].items() if name not in _NOT_METRICS}
        rows.append([run["program"], run["finished"], ", ".join(f"{k}: {_short(v)}" for k, v in _flatten(kept))])
    return table(["program", "finished (UTC)", "metrics"], rows)


def data_table(record: RunRecord) -> str | None:
    """Training data of every run: digest, weight, and the counts of the run that made it; None if none is recorded."""
    rows = []
    for run in ancestry(record):
        for name, digest in run["inputs"].items():
            if not name.startswith(("data.", "examples")):
                continue
            source = name.removeprefix("data.")
            settings = (run["config"].get("data") or {}).get(source, {}) if name.startswith("data.") else {}
            made_by = run["parents"].get(name, {}).get("metrics", {})
            counts = ", ".join(f"{k}: {_short(v)}" for k, v in _flatten(made_by) if isinstance(v, int))
            rows.append([run["program"], source, settings.get("task", ""), settings.get("weight", ""), counts, digest])
    return table(["used by", "source", "task", "weight", "counts recorded", "SHA-256"], rows) if rows else None


def settings_table(record: RunRecord) -> str | None:
    """Settings of every training run and merge; None if there was none."""
    rows = []
    for run in ancestry(record)[1:]:
        if run["program"] not in _SETTINGS:
            continue
        chosen = dict(_flatten(run["config"]))
        names = _SETTINGS[run["program"]] or [name for name, value in chosen.items() if isinstance(value, int | float)]
        shown = [f"{name}: {_short(chosen[name])}" for name in names if chosen.get(name) not in (None, "", [])]
        if shown:
            rows.append([run["program"], run["finished"], ", ".join(shown)])
    return table(["program", "finished (UTC)", "settings"], rows) if rows else None


def trained_dims(record: RunRecord) -> list[int]:
    """Matryoshka dimensions of the last training run."""
    for run in ancestry(record):
        if run["program"] == "train_embedding":
            return [int(dim) for dim in run["config"].get("matryoshka_dims") or ()]
    return []


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of an evaluation's ``results.json`` (the file, or its directory).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no results.json of ``evaluate``.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"scores {path}: no such file. Give the output_dir of 'evaluate', or its results.json.")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        # The card shows metrics by set: no means over sets, and float32 vectors only.
        rows = [row for row in rows if row["set"] != "mean" and row.get("quantization", "float32") == "float32"]
        return [{key: row[key] for key in ("model", "set", "dim", "scores", "num_queries")} for row in rows]
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{file}: not the results.json of 'evaluate' ({problem}).") from None


def scores_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every model on every set at its full dimension."""
    widest = {
        (row["model"], row["set"]): max(
            r["dim"] or 0 for r in rows if (r["model"], r["set"]) == (row["model"], row["set"])
        )
        for row in rows
    }
    full = [row for row in rows if (row["dim"] or 0) == widest[row["model"], row["set"]]]
    metrics = list(dict.fromkeys(metric for row in full for metric in row["scores"]))
    body = [
        [row["model"], row["set"], row["dim"] or "-", row["num_queries"], *(_score(row, metric) for metric in metrics)]
        for row in full
    ]
    return table(["model", "set", "dimensions", "queries", *map(cell, metrics)], body)


def matryoshka_table(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first metric at every dimension; None if there is one dimension only."""
    dims = sorted({row["dim"] for row in rows if row["dim"]}, reverse=True)
    if len(dims) < 2:
        return None
    metric = next(iter(rows[0]["scores"]))
    by_pair: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        if row["dim"]:
            by_pair.setdefault((row["model"], row["set"]), {})[row["dim"]] = _score(row, metric)
    body = [[*pair, *(found.get(dim, "") for dim in dims)] for pair, found in by_pair.items()]
    return table([f"model ({cell(metric)})", "set", *map(str, dims)], body)


def _score(row: Mapping[str, Any], metric: str) -> str:
    value = row["scores"].get(metric)
    return "" if value is None else f"{float(value):.4f}"


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in value.items():
        if isinstance(child, Mapping):
            yield from _flatten(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
