"""``python -m qwen3emb_train plan``: plans, optionally does a dry run, prints, and refuses impossible settings."""

from dataclasses import replace
from pathlib import Path

from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.plan import plan, write_plan
from qwen3emb_train.planning.report import format_plan


def run_plan(config: PlanConfig) -> int:
    """Prints the plan; returns the exit code: 2 when a setting is impossible."""
    result, model = plan(config)
    if config.dry_run:
        from qwen3emb_train.planning.dry_run import dry_run

        result = replace(result, dry_run=dry_run(config, result, model))
    print(format_plan(result, config))
    if config.json_path is not None:
        write_plan(result, Path(config.json_path))
    return 0 if result.is_possible else 2
