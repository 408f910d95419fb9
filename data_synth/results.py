"""The results of a run beside the examples: stats.json, report.html, run.json."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_synth.brake import REPLY_REASONS, advice
from data_synth.ledger import Ledger
from data_synth.progress import PricesConfig
from data_synth.publish import PublishSummary, read_published, read_rejected
from data_synth.report import render_report
from data_synth.run_summary import RunSummary
from data_synth.statistics import Statistics
from qwen3emb_train.lineage import new_record, write_record, write_text

PROGRAM = "synthesize"


def write_results(
    output: Path,
    config: Mapping[str, Any],
    prices: PricesConfig,
    published: Mapping[str, PublishSummary],
    summaries: Mapping[str, RunSummary],
) -> dict[str, Any]:
    """Counts the published rows, writes the three files and prints a short summary.

    Args:
        output: of the run; the tasks' directories are below it.
        config: for run.json; contains no secrets (API keys are given by environment variable).
        prices: of the teacher.
        published, summaries: by task; summaries of this start only.
    """
    statistics = Statistics()
    details: dict[str, dict[str, str]] = {task: {} for task in published}
    for task in published:
        for row, facts in read_published(output / task):
            statistics.add_row(row, facts)
        for rejected in read_rejected(output / task):
            details[task].setdefault(rejected["reason"], rejected.get("detail", ""))
            statistics.add_rejected(task, rejected["reason"], rejected.get("detail", ""), rejected.get("rows", ()))
    spent = _spent(output, prices)
    items = {name: _of_items(summary) for name, summary in published.items()}
    counts = statistics.to_json()
    seconds = sum(summary.seconds for summary in summaries.values())
    stats = {"items": items, "spent": spent, "seconds_of_this_start": round(seconds, 1), **counts}
    write_text(output / "stats.json", json.dumps(stats, indent=2, ensure_ascii=False) + "\n")
    total = {key: sum(entry[key] for entry in items.values()) for key in ("items", "missing", "failed", "accepted")}
    page = render_report(
        "What the teacher wrote",
        {
            "Teacher": config["teacher"]["model"],
            "Tasks": ", ".join(published),
            "Rows": f"{counts['accepted']:,} accepted, {counts['rejected']:,} rejected",
            "Calls": f"{spent['calls']:,}, of {spent['prompt_tokens']:,} + {spent['completion_tokens']:,} tokens",
            "Cost": f"{spent['cost']:,.2f}",
            "Train with": _training_command(output, list(published)),
        },
        {"items": total["items"], "completed": total["items"] - total["missing"] - total["failed"],
         "accepted": total["accepted"]},
        counts,
        statistics.samples.values(),
        {reason: statistics.rejected_samples[reason].values() for reason in counts["rejection_reasons"]},
    )  # fmt: skip
    write_text(output / "report.html", page)
    record = new_record(PROGRAM, config, {"passages": output / "passages"}, items=items, spent=spent)
    write_record(output, record)
    _tell(output, items, spent)
    _advise(items, details, config["brake"]["min_acceptance"])
    return stats


def _advise(items: Mapping[str, Mapping[str, Any]], details: Mapping[str, Mapping[str, str]], least: float) -> None:
    """Says what to try where a task too small for the brake was of no use."""
    for task, found in items.items():
        bad = Counter(
            {name: num for name, num in found["reasons"].items() if name.removeprefix("judge_") in REPLY_REASONS}
        )
        if bad and found["accepted"] < least * found["items"]:
            print(f"{task}: {advice(task, bad, details[task])}", file=sys.stderr)


def _of_items(summary: PublishSummary) -> dict[str, Any]:
    ended = summary.num_items - summary.num_missing
    return {
        "items": summary.num_items,
        "missing": summary.num_missing,
        "failed": summary.reasons["failed"],
        "accepted": summary.num_accepted,
        "rows": summary.num_rows,
        "acceptance_rate": round(summary.num_accepted / ended, 4) if ended else None,
        "reasons": dict(summary.reasons.most_common()),
    }


def _spent(output: Path, prices: PricesConfig) -> dict[str, Any]:
    """Totals over all calls in the ledgers: every task, model, process and start."""
    totals = Counter(calls=0, prompt_tokens=0, completion_tokens=0)
    for directory in sorted((output / "ledger").iterdir()):
        with Ledger(output, directory.name, model="") as ledger:
            totals.update(ledger.totals())
    return {**totals, "cost": round(prices.of(totals["prompt_tokens"], totals["completion_tokens"]), 4)}


def _training_command(output: Path, tasks: list[str]) -> str:
    data = " ".join(f"data.{task}.path={output / task / 'examples'}" for task in tasks if task != "instructions")
    return f"python -m qwen3emb_train train_embedding model.path=MODEL {data} output_dir=outputs/trained"


def _tell(output: Path, items: Mapping[str, Mapping[str, Any]], spent: Mapping[str, Any]) -> None:
    for task, found in items.items():
        reasons = ", ".join(f"{name} {num:,}" for name, num in list(found["reasons"].items())[:6]) or "none"
        print(
            f"{output / task}: {found['rows']:,} rows from {found['items']:,} items, "
            f"{found['acceptance_rate'] or 0:.1%} accepted; rejected: {reasons}"
        )
    print(
        f"{spent['calls']:,} calls in all, {spent['prompt_tokens']:,} + {spent['completion_tokens']:,} tokens, "
        f"cost {spent['cost']:,.2f}"
    )
    print(f"{output / 'report.html'}: read some rows before you train on them")
    print(_training_command(output, list(items)))
