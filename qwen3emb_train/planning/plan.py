"""The program ``plan``: what a ``train_embedding`` configuration will need, and whether it can work at all.

    python -m qwen3emb_train plan <exactly the arguments of train_embedding> gpu=h100 num_gpus=8,64 engine=ddp

Nothing is downloaded, no weight is loaded, no GPU is used, and nothing is written unless ``json_path`` is set.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.lineage import matches, write_text
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.model_directory import TOKENIZER_FILES
from qwen3emb_train.models.precision import Precision, resolve_precision
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.cost import Disk, StepTime, predict_disk
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.load import RankPlan, TracedModels, plan_rank
from qwen3emb_train.planning.memory import Memory, StepLoad, casts_weights
from qwen3emb_train.planning.parameters import Parameters, load_model_shape
from qwen3emb_train.planning.refusals import doubtful, impossible, refuse_split
from qwen3emb_train.planning.remedies import remedy_for_memory
from qwen3emb_train.planning.work import RowShape, largest_row, mix, sample_row


@dataclass(frozen=True)
class PlanColumn:
    """The plan for one number of GPUs.

    Attributes:
        num_gpus: ranks.
        load: of one rank in a step.
        memory, time: of one rank.
        hours: of the whole run.
        refusals: why it cannot work, each with its remedy.
    """

    num_gpus: int
    load: StepLoad
    memory: Memory
    time: StepTime
    hours: float
    refusals: list[str]


@dataclass(frozen=True)
class Plan:
    """The whole plan.

    Attributes:
        model: parameters and shapes.
        row: the average row.
        steps: optimizer steps; 0 = unknown.
        negatives: candidate negatives of a query by term, before any mask.
        disk: checkpoints and token ids.
        columns: by number of GPUs.
        refusals, warnings: that apply to any number of GPUs.
        bf16: whether products run in bf16.
    """

    model: Parameters
    row: RowShape
    steps: int
    negatives: dict[str, int]
    disk: Disk
    columns: list[PlanColumn]
    refusals: list[str]
    warnings: list[str]
    bf16: bool
    dry_run: list[str] = field(default_factory=list)

    @property
    def is_possible(self) -> bool:
        return not self.refusals and not any(column.refusals for column in self.columns)


def plan(config: PlanConfig) -> tuple[Plan, TextModel]:
    """The plan, and the model on the meta device, which the dry run shards."""
    bf16 = _is_bf16(config)
    warnings: list[str] = []
    load_model_shape(config.model)  # a wrong name is said before the data is read
    row = _average_row(config, warnings)
    casts = casts_weights(config.engine, max(config.ranks))
    models = TracedModels(bf16, config.gpu, row.tokens / row.texts, casts=casts)
    traced = models.of(config.model)
    model = traced.parameters
    steps = _steps(config, row)
    refusals = impossible(config, model, row, steps)
    warnings += doubtful(config, row, steps)
    columns = [_column(config, models, row, steps, ranks) for ranks in config.ranks]
    disk = predict_disk(
        model,
        steps=steps,
        save_every=config.save_every,
        keep_last=config.keep_last,
        keeps_best=bool(config.validation_data or config.eval_sets),
        tokens_per_row=row.tokens,
        texts_per_row=row.texts,
        rows=row.rows,
    )
    result = Plan(model, row, steps, candidate_negatives(config, row), disk, columns, refusals, warnings, bf16)
    return result, traced.model


def write_plan(plan: Plan, path: Path) -> None:
    """The plan as JSON; the list of parameter shapes is left out."""
    values = asdict(plan)
    for name in ("shapes", "trained_shapes"):
        values["model"].pop(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=2))


def _is_bf16(config: PlanConfig) -> bool:
    if config.precision is Precision.auto and config.gpu == "cpu":
        return resolve_precision(config.precision, torch.device("cpu")) is Precision.bf16
    return config.precision is not Precision.fp32


def _average_row(config: PlanConfig, warnings: list[str]) -> RowShape:
    rows, missing = [], []
    tokenizer = _tokenizer(config)
    for name, source in config.data.items():
        path = Path(source.path)
        if path.exists() or matches(path):
            rows.append(sample_row(source, config.lengths, config.reading, tokenizer, config.sample_rows))
        else:
            rows.append(largest_row(source, config.lengths))
            missing.append(f"data.{name}")
    if missing:
        warnings.append(f"{', '.join(missing)}: no such file yet, lengths and rows are assumed.")
    row = mix(dict(zip(config.data, rows, strict=True)), config.data, config.mixture)
    given = {
        "mean_query_tokens": config.mean_query_tokens,
        "mean_document_tokens": config.mean_document_tokens,
        "mean_negatives": config.mean_negatives,
    }
    names = [name for name, value in given.items() if value is not None]
    return replace(
        row,
        query_tokens=_or(config.mean_query_tokens, row.query_tokens),
        document_tokens=_or(config.mean_document_tokens, row.document_tokens),
        negatives=_or(config.mean_negatives, row.negatives),
        origin="; ".join([row.origin, *([f"{', '.join(names)} as given"] if names else [])]),
    )


def _or(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


def _tokenizer(config: PlanConfig) -> TextTokenizer | None:
    """The model's tokenizer, where it is a directory: a plan does not use the network."""
    path = Path(config.model.path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    return load_tokenizer(config.model.path, config.model.eos_token)


def candidate_negatives(config: PlanConfig, row: RowShape) -> dict[str, int]:
    """Negatives of one query, by term of Eq. 1 (arXiv 2506.05176), before masks; the maximum of the metric
    ``effective_negatives``.
    """
    loss = config.loss
    if not isinstance(loss, InfoNCE):
        return {}
    others = config.batch_size - 1
    documents = others * row.positives + (others * row.negatives if loss.gather_hard_negatives else 0)
    terms = {
        "own hard negatives": row.negatives if loss.hard_negatives else 0,
        "q-q": others if loss.query_query else 0,
        "d-d": documents if loss.document_document else 0,
        "q-d": documents if loss.query_document else 0,
    }
    return {name: round(count) for name, count in terms.items() if count}


def _column(config: PlanConfig, models: TracedModels, row: RowShape, steps: int, ranks: int) -> PlanColumn:
    def planned(changed: PlanConfig, number: int) -> RankPlan:
        return plan_rank(changed, models, row, number)

    found, gpu = planned(config, ranks), GPUS[config.gpu]
    refusals = refuse_split(config, ranks)
    if gpu.memory and found.memory.total > gpu.memory:
        refusals.append(remedy_for_memory(config, ranks, planned))
    return PlanColumn(ranks, found.load, found.memory, found.time, found.time.total * steps / 3600, refusals)


def _steps(config: PlanConfig, row: RowShape) -> int:
    """The number of steps; 0 where it follows from ``mixture.epochs`` and the number of rows is unknown."""
    if config.mixture.epochs is None:
        return config.steps or 0
    return 0 if row.rows is None else max(1, config.mixture.epochs * row.rows // config.batch_size)
