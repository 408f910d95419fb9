"""Selects the tasks of ``evaluate_mteb``: those of a benchmark, named ones, local ones."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from qwen3emb_train.evaluation.mteb_local import LocalSetConfig, build_local_task


def choose_tasks(
    mteb: Any,
    benchmark: str | None,
    names: Sequence[str],
    languages: Sequence[str],
    local_sets: Mapping[str, LocalSetConfig],
    instructed: Iterable[str],
) -> list[Any]:
    """The tasks in this order: of the benchmark, named, local.

    Args:
        mteb: the package.
        benchmark: mteb's name of one; None: no benchmark.
        names: of further tasks.
        languages: keep subsets in one of these; empty = all. Local sets are kept whatever their language.
        local_sets: retrieval sets by task name.
        instructed: tasks that the user has an instruction for; mteb must know them, or they must be local.

    Raises:
        ValueError: mteb has no such task or benchmark (the message lists similar names), no subset of a named task is
            in the languages, a local set has the name of one of mteb's tasks, or a set is malformed.
        FileNotFoundError: a local set does not exist.
    """
    try:
        tasks = list(mteb.get_benchmark(benchmark).tasks) if benchmark else []
        if languages:
            tasks = [kept for task in tasks if (kept := _in_languages(task, languages)) is not None]
        listed = {task.metadata.name for task in tasks}
        tasks += [mteb.get_task(name, languages=list(languages) or None) for name in names if name not in listed]
        for name in set(instructed) - {task.metadata.name for task in tasks} - local_sets.keys():
            mteb.get_task(name)  # of a task that is not run today: a list of instructions may serve many runs
    except KeyError as error:
        reason = str(error.args[0]).removeprefix("KeyError: ")
        raise ValueError(f"mteb knows no such task or benchmark: {reason}") from None
    if not tasks and not local_sets:
        raise ValueError(f"benchmark {benchmark!r} has no task in languages {list(languages)}.")
    for name, chosen in local_sets.items():
        if _is_known(mteb, name):
            raise ValueError(f"local_sets.{name}: mteb has a task of this name. Give the set another one.")
        tasks.append(build_local_task(name, chosen))
    return tasks


def _in_languages(task: Any, languages: Sequence[str]) -> Any | None:
    """A benchmark's task with those of its subsets that are in one of the languages; None: there are none.

    mteb's own filter would restore subsets that the benchmark excludes.
    """
    codes = task.metadata.hf_subsets_to_langscripts
    wanted = set(languages)
    kept = [name for name in task.hf_subsets if any({code, code[:3]} & wanted for code in codes[name])]
    if not kept:
        return None
    chosen = copy(task)  # the benchmark's own task stays as it is
    chosen.hf_subsets = kept
    return chosen


def _is_known(mteb: Any, name: str) -> bool:
    try:
        mteb.get_task(name)
    except KeyError:
        return False
    return True
