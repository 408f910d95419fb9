"""The program ``evaluate_mteb``: MTEB run by ``mteb``, for the models that ``evaluate`` takes; results in mteb's files.

<output_dir>/  run.json  results/<organisation__model>/<revision>/<Task>.json  model_meta.json
                         results/.../<revision>/experiments/<settings>/<Task>.json  where they are not the defaults
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.evaluation.mteb_choice import choose_tasks
from qwen3emb_train.evaluation.mteb_local import LocalSetConfig
from qwen3emb_train.evaluation.mteb_model import Instructions, MtebModel, build_meta, import_mteb
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder, model_identity
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.models.precision import Precision

PROGRAM = "evaluate_mteb"
_MAX_TOKENS = 8192  # as in the evaluation of arXiv 2506.05176


@dataclass
class EvaluateMtebConfig:
    """Settings of an MTEB evaluation.

    Attributes:
        model: a model directory of any kind, or a hub name.
        model_name: "organisation/model", the name in mteb's files; null = the hub name, or "local/" and the
            directory's. Models of one name are distinguished by their contents.
        num_layers: use only the first layers of an (unexported) model.
        tasks: mteb's names of tasks: tasks=[NFCorpus,STS12].
        benchmark: mteb's name of one, such as "MTEB(eng, v2)".
        languages: keep only these (ISO 639-3, as "eng" or "eng-Latn"); empty = all that a task has.
        local_sets: name -> retrieval set in BEIR layout, measured as an mteb task of that name.
        instructions: task name -> instruction; "" = none. Takes precedence over the task's own.
        default_instruction: of tasks without one; null = mteb's for that kind of task. Before the texts of a model that
            was trained on bare queries stand only instructions given here.
        dim: Matryoshka dimension; null = the full vector.
        output_dir: receives mteb's result tree. A task with a result there is not run again.
        overwrite: run it again nevertheless.
        max_tokens: longest text.
        precision: precision of the matrix products.
        tokens_per_batch: tokens encoded at once by our encoder.
        texts_per_batch: texts encoded at once by Sentence-Transformers (exports).
    """

    model: str = "???"
    model_name: str | None = None
    num_layers: int | None = None
    tasks: list[str] = field(default_factory=list)
    benchmark: str | None = None
    languages: list[str] = field(default_factory=list)
    local_sets: dict[str, LocalSetConfig] = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)
    default_instruction: str | None = None
    dim: int | None = None
    output_dir: str = "???"
    overwrite: bool = False
    max_tokens: int = _MAX_TOKENS
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    texts_per_batch: int = 32

    def __post_init__(self) -> None:
        if not (self.tasks or self.benchmark or self.local_sets):
            raise ValueError(
                "there is nothing to measure: give tasks=[NFCorpus], 'benchmark=MTEB(eng, v2)' or "
                "local_sets.NAME.path=DIRECTORY."
            )
        for name, instruction in self.instructions.items():
            refuse_template(f"instructions.{name}", instruction)
        refuse_template("default_instruction", self.default_instruction)
        if self.model_name is not None and self.model_name.count("/") != 1:
            raise ValueError(f"model_name is {self.model_name!r}; write organisation/model, e.g. local/mine.")
        for key, least in (("dim", 1), ("max_tokens", 2), ("tokens_per_batch", 1), ("texts_per_batch", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key} is {value}; it must be at least {least}.")
        if twice := {name for name in self.tasks if self.tasks.count(name) > 1 or name in self.local_sets}:
            raise ValueError(f"tasks and local_sets name {sorted(twice)} more than once; name each task once.")


@dataclass(frozen=True)
class TaskScore:
    """A row of the table.

    Attributes:
        task, type: mteb's.
        metric: mteb's main score of the task.
        score: its mean over the task's subsets and splits.
        was_there: read from the file of an earlier run.
    """

    task: str
    type: str
    metric: str
    score: float
    was_there: bool


def evaluate_mteb(config: EvaluateMtebConfig) -> list[TaskScore]:
    """Runs the tasks that have no result yet, writes mteb's files and run.json, and returns the scores.

    Raises:
        FileNotFoundError, ValueError: the model, a local set, a task or a benchmark does not exist.
        ConnectionError: a task's data is neither cached nor reachable; the message names the task.
        ImportError: mteb is missing; the message says how to install it.
    """
    output = Path(config.output_dir)
    inputs = {f"set {name}": Path(chosen.path) for name, chosen in config.local_sets.items()}
    if Path(config.model).is_dir():
        inputs["model"] = Path(config.model)
    lineage.require_apart(output, inputs)
    lineage.require_claimable(output, PROGRAM, ("results", lineage.RUN_FILE))
    mteb = import_mteb()
    tasks = choose_tasks(
        mteb, config.benchmark, config.tasks, config.languages, config.local_sets, config.instructions.keys()
    )
    identity = model_identity(config.model)
    meta = build_meta(
        *_name_and_revision(config, identity),
        {name: value for name, value in _experiment(config).items() if value is not None},
    )
    settings = EmbeddingSettings(config.max_tokens, config.precision, config.tokens_per_batch, config.texts_per_batch)
    prompts = QueryPrompts.of(config.model)
    prompts.report({f"local_sets.{name}.instruction": one.instruction for name, one in config.local_sets.items()})
    by_set = {name: chosen.instruction for name, chosen in config.local_sets.items()}
    model = MtebModel(
        partial(load_embedder, config.model, settings, config.num_layers),
        Instructions(config.instructions, by_set, config.default_instruction, prompts.is_bare),
        meta,
        config.dim,
    )
    with lineage.DirectoryLock(output / lineage.LOCK_FILE):
        lineage.claim(output, PROGRAM)
        scores = run_tasks(model, tasks, output, overwrite=config.overwrite, say=print)
        by_task = {row.task: row.score for row in scores}
        lineage.write_record(output, lineage.new_record(PROGRAM, lineage.settings_of(config), inputs, scores=by_task))
    return scores


def run_tasks(
    model: MtebModel,
    tasks: Sequence[Any],
    output_dir: Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> list[TaskScore]:
    """Runs mteb's tasks one by one; each writes its file as soon as it is done.

    Args:
        model: under mteb's interface.
        tasks: mteb's task objects.
        output_dir: of mteb's result tree.
        overwrite: also run tasks that have a result.
        say: called with a line for each finished task.
    """
    mteb = import_mteb()
    cache = mteb.ResultCache(output_dir)
    scores = []
    for task in tasks:
        stored = None if overwrite else _stored(cache, task, model.mteb_model_meta)
        was_there = stored is not None and not stored.get_missing_evaluations(task)
        result = _run(mteb, model, task, cache, "always" if stored is None else "only-missing")
        row = TaskScore(
            task.metadata.name, task.metadata.type, task.metadata.main_score, float(result.get_score()), was_there
        )
        say(f"{row.task}: {row.metric} {row.score:.4f}{' (was there)' if was_there else ''}")
        scores.append(row)
    return scores


def _stored(cache: Any, task: Any, meta: Any) -> Any | None:
    """The result of an earlier run on the same data; None if there is none."""
    try:
        stored = cache.load_task_result(task.metadata.name, meta)
    except ValueError:
        return None  # incomplete: mteb does not write its files atomically
    # mteb itself accepts a complete result of any revision, such as that of a local set before an edit.
    return stored if stored is not None and stored.dataset_revision == task.metadata.revision else None


def _run(mteb: Any, model: MtebModel, task: Any, cache: Any, strategy: str) -> Any:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = mteb.evaluate(
            model, task, cache=cache, overwrite_strategy=strategy, co2_tracker=False, show_progress_bar=False,
            public_only=False,
        )  # fmt: skip
    except (ConnectionError, DatasetNotFoundError, LocalEntryNotFoundError) as error:
        raise ConnectionError(
            f"task {task.metadata.name}: its data ({task.metadata.dataset.get('path')}) is neither in the hub's cache "
            f"nor in reach ({str(error).splitlines()[0]}). Run it once with the network (HF_HUB_OFFLINE unset), or "
            "measure a set on disk: local_sets.NAME.path=DIRECTORY. Results so far are kept."
        ) from error
    (result,) = found.task_results
    return result


def _name_and_revision(config: EvaluateMtebConfig, identity: str) -> tuple[str, str]:
    """Name and commit of a hub model; else a name for the directory, and the digest of its contents."""
    path = Path(config.model)
    if not path.is_dir():
        name, _, revision = identity.rpartition("@")
        return config.model_name or name, revision
    # outputs/mine/model and checkpoints/step_000100/model are named by the directory above.
    resolved = path.resolve()
    directory = resolved.parent if resolved.name == "model" else resolved
    return config.model_name or f"local/{directory.name}", identity


def _experiment(config: EvaluateMtebConfig) -> dict[str, Any]:
    """Settings that change the metrics; None for defaults."""
    given = [config.instructions, config.default_instruction]
    return {
        "dim": config.dim,
        "num_layers": config.num_layers,
        "max_tokens": None if config.max_tokens == _MAX_TOKENS else config.max_tokens,
        "precision": None if config.precision is Precision.auto else config.precision.value,
        "instructions": lineage.value_digest(given)[:8] if any(value not in (None, {}) for value in given) else None,
    }


def format_scores(scores: Sequence[TaskScore]) -> str:
    """The scores as an aligned table, with their means over tasks and over types of task, as in MTEB's tables."""
    by_type: dict[str, list[float]] = {}
    for row in scores:
        by_type.setdefault(row.type, []).append(row.score)
    means = [sum(values) / len(values) for values in by_type.values()]
    lines = [["task", "type", "metric", "score"]]
    lines += [[row.task, row.type, row.metric, f"{row.score:.4f}"] for row in scores]
    lines.append(["mean over tasks", "", "", f"{sum(row.score for row in scores) / len(scores):.4f}"])
    lines.append(["mean over types", "", "", f"{sum(means) / len(means):.4f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
