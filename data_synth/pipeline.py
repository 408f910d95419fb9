"""The whole synthesis: prepare passages, run each task, filter and publish, write the report.

OUTPUT/passages/          passages with their personas; rejected_documents.jsonl lists what could not be used
OUTPUT/ledger/            every paid reply: a restart requests only what is missing
OUTPUT/TASK/examples/     training data; provenance/ has the matching lines; rejected/ with reasons
OUTPUT/stats.json, report.html, run.json
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from data_synth.config import TASKS, SynthesisConfig
from data_synth.costs import estimate
from data_synth.documents import Passage
from data_synth.engines import Engine, run_in_rounds
from data_synth.examination import Examination
from data_synth.filters.chain import FilterChain, build_filters
from data_synth.judge import RatingFilter, judged
from data_synth.preparation import PreparedPassages, prepare_passages
from data_synth.progress import Progress
from data_synth.prompts import PROMPTS_DIRECTORY
from data_synth.publish import PublishSummary, publish
from data_synth.results import PROGRAM, write_results
from data_synth.run_summary import RunSummary
from data_synth.runner import run
from data_synth.tasks.bitext import BitextTask
from data_synth.tasks.classification import ClassificationTask
from data_synth.tasks.code import CodeTask
from data_synth.tasks.instructed import InstructedTask
from data_synth.tasks.instructions import InstructionsTask, instructions_of
from data_synth.tasks.reasoning import ReasoningTask
from data_synth.tasks.retrieval import RetrievalTask
from data_synth.tasks.sts import StsTask
from data_synth.teachers.openai_teacher import OpenAITeacher
from data_synth.teachers.ray_rounds import RayRounds, require_vllm
from data_synth.teachers.rounds import TeacherByFiles
from data_synth.work import Outcome, Task, WorkItem
from qwen3emb_train.configuration.program import EXIT_STOPPED
from qwen3emb_train.lineage import (
    RUN_FILE,
    DirectoryLock,
    claim,
    digest,
    file_digest,
    require_apart,
    require_claimable,
    write_text,
)
from qwen3emb_train.texts.languages import LanguageIdentifier

EXIT_FAILED = 1
_PASSAGES_PER_PART = 10_000
_COUNTABLE = 20_000  # passages up to which all items are counted first, for the ETA


def synthesize(config: SynthesisConfig) -> int:
    """Runs the synthesis, or a dry run.

    Returns:
        0 if every item of this process's share has ended, ``EXIT_FAILED`` if some have failed, ``EXIT_STOPPED`` if a
        signal stopped it: the same command continues.
    """
    output = Path(config.output_dir)
    if config.engine is Engine.ray and not config.dry_run:
        require_vllm()
    prepared = _prepare(config, output)
    counts = prepared.counts
    print(f"{output / 'passages'}: {counts['passages']:,} passages; {counts['rejected']:,} documents were rejected")
    if config.dry_run:
        _dry_run(config, output, prepared)
        return 0
    summaries = asyncio.run(_drive(config, output, prepared))
    is_interrupted = any(summary.is_interrupted for summary in summaries.values())
    if is_interrupted:
        print("stopped; the same command continues")
    if config.num_processes > 1:
        print(
            f"share {config.process_index} of {config.num_processes} ended; when all have, publish with num_processes=1"
        )
    elif not is_interrupted or config.partial:
        _publish(config, output, prepared, summaries)
    if is_interrupted:
        return EXIT_STOPPED
    return EXIT_FAILED if _tell_failed(output, summaries) else 0


def _tell_failed(output: Path, summaries: Mapping[str, RunSummary]) -> int:
    """Says how many items have failed, in this start or an earlier one."""
    num_failed = sum(summary.num_failed + summary.num_failed_before for summary in summaries.values())
    if num_failed:
        told = next((f", first {each.first_failure}" for each in summaries.values() if each.first_failure), "")
        print(f"{num_failed:,} item{'s' if num_failed > 1 else ''} failed{told}", file=sys.stderr)
        print(f"{output}/TASK/rejected/failed.jsonl lists them; retry_failed=true asks them again", file=sys.stderr)
    return num_failed


def build_task(name: str, config: SynthesisConfig, passages: Iterable[Passage]) -> Task:
    """Builds a task, rated by the judge if the configuration asks for it.

    Args:
        name: of the task.
        config: of the whole synthesis.
        passages: that the items are about.
    """
    tasks: dict[str, Callable[[], Task]] = {
        "instructions": lambda: InstructionsTask(config.instructions, passages),
        "retrieval": lambda: RetrievalTask(config.retrieval, passages),
        "code": lambda: CodeTask(config.code, passages),
        "bitext": lambda: BitextTask(config.bitext, passages),
        "sts": lambda: StsTask(config.sts, passages),
        "classification": lambda: ClassificationTask(config.classification, passages),
        "instructed": lambda: InstructedTask(config.instructed, passages),
        "reasoning": lambda: ReasoningTask(config.reasoning, passages),
    }
    return judged(tasks[name](), config.judge)


def _prepare(config: SynthesisConfig, output: Path) -> PreparedPassages:
    """One process prepares the passages; the others wait for it and reuse them."""
    language = config.filters.language
    detect = LanguageIdentifier(language.languages).detect_all if language.enabled else None
    personas = config.personas if "retrieval" in config.tasks else None
    inputs = {f"documents.{name}": Path(source.path) for name, source in config.documents.items() if source.path}
    require_apart(output, inputs)
    require_claimable(
        output,
        PROGRAM,
        (
            "ledger",
            "passages",
            ".passages.digests",
            "publishing",
            "batches",
            *config.tasks,
            "*.json",
            "report.html",
            "dry_run_*",
        ),
    )
    claim(output, PROGRAM)
    with DirectoryLock(output / "passages.lock", wait=True):
        return prepare_passages(config.documents, personas, output / "passages", detect)


def _dry_run(config: SynthesisConfig, output: Path, prepared: PreparedPassages) -> None:
    totals: dict[str, dict[str, Any]] = {}
    prompts: list[str] = []
    for name in config.tasks:
        found = estimate(build_task(name, config, prepared), config.estimate.num_items)
        totals[name] = found.scaled(config.prices, config.estimate.completion_tokens)
        for label, request in found.examples.items():
            turns = "\n".join(f"--- {message.role}\n{message.content}" for message in request.messages)
            prompts.append(f"===== {label}\n{turns}\n")
        told = "  ".join(f"{key} {value:,}" for key, value in totals[name].items())
        print(f"{name}: {told}")
    write_text(output / "dry_run.json", json.dumps(totals, indent=2) + "\n")
    write_text(output / "dry_run_prompts.txt", "\n".join(prompts).encode("utf-8", "replace").decode())
    print(f"{output}/dry_run_prompts.txt: one rendered prompt of each kind; no request was sent")


async def _drive(config: SynthesisConfig, output: Path, prepared: PreparedPassages) -> dict[str, RunSummary]:
    summaries: dict[str, RunSummary] = {}
    ray = RayRounds(config.teacher, config.ray) if config.engine is Engine.ray else None
    share = f"{config.process_index:04d}-of-{config.num_processes:04d}"
    async with AsyncExitStack() as opened:
        servers = None
        if config.engine is Engine.http:
            servers = await opened.enter_async_context(OpenAITeacher(config.teacher))
        for name in config.tasks:
            ask = partial(_run_task, config, output, prepared, name)
            if servers is not None:
                summaries[name] = await ask(servers)
            else:
                summaries[name] = await run_in_rounds(config.teacher, output / "batches" / name, share, ask, ray)
            # Tasks do not depend on each other: the rounds of all are handed in together.
            if summaries[name].is_interrupted and not summaries[name].num_waiting:
                break
    return summaries


async def _run_task(
    config: SynthesisConfig,
    output: Path,
    prepared: PreparedPassages,
    name: str,
    teacher: OpenAITeacher | TeacherByFiles,
    is_first: bool = True,
) -> RunSummary:
    task = build_task(name, config, prepared)
    num_items = None
    if config.num_processes == 1 and prepared.counts["passages"] <= _COUNTABLE:
        num_items = await asyncio.to_thread(lambda: sum(1 for _ in task.items()))
    return await run(
        task,
        teacher,
        output,
        window=config.window,
        process_index=config.process_index,
        num_processes=config.num_processes,
        retry_failed=config.retry_failed and is_first,
        retry_rejected=config.retry_rejected if is_first else (),
        brake=config.brake,
        limit_of=teacher.limit_of,
        progress=Progress(name, num_items=num_items, prices=config.prices),
    )


def _publish(
    config: SynthesisConfig, output: Path, prepared: PreparedPassages, summaries: Mapping[str, RunSummary]
) -> None:
    """Publishes each task; instructions first, as the rows of the others contain them."""
    filters = FilterChain([RatingFilter(config.judge), build_filters(config.filters, _prompt_directories(config))])
    published: dict[str, PublishSummary] = {}
    written: list[Outcome] = []
    decisive = {
        "config": asdict(config), "passages": file_digest(prepared.directory / RUN_FILE),
        "prompts": {str(path): digest(path) for path in _prompt_directories(config)},
        "sets": {str(path): digest(Path(path)) for path in config.filters.decontamination.sets},
    }  # fmt: skip

    def keep(item: WorkItem, outcome: Outcome) -> Outcome:
        written.append(outcome)
        return outcome

    for name in sorted(config.tasks, key=lambda name: name != "instructions"):
        instructions = instructions_of(written)
        is_whole = name == "instructions"  # an item is about all passages of a source
        parts = [partial(build_task, name, config, part) for part in prepared.parts(_PASSAGES_PER_PART)]
        published[name] = publish(
            output,
            build_task(name, config, prepared),
            output / name,
            model=config.teacher.identity(),
            examine=keep if is_whole else Examination(filters, instructions),
            near_duplicates=None if is_whole else config.filters.near_duplicates,
            parts=None if is_whole else parts,
            processes=1 if is_whole else config.filter_processes or len(os.sched_getaffinity(0)),
            settings=None if is_whole else {**decisive, "instructions": instructions},
            partial=config.partial,
            rows_per_file=config.rows_per_file,
        )
    write_results(output, asdict(config), config.prices, published, summaries)


def _prompt_directories(config: SynthesisConfig) -> list[Path]:
    """The shipped templates and the user's."""
    parts = [getattr(config, name) for name in TASKS]
    return [PROMPTS_DIRECTORY, *(Path(part.prompts) for part in parts if part.prompts)]
