"""Settings of the training stages."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.reranking_collator import FalseNegativeFilter
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.data.training_data import DataSettings
from qwen3emb_train.losses.by_task import TaskLosses
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.point_wise import PointWise
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.health.non_finite import NonFinitePolicy
from qwen3emb_train.training.optimization import OptimizerConfig, ScheduleConfig
from qwen3emb_train.training.retrieval_validation import ValidationSetConfig
from qwen3emb_train.training.tracking import TrackingConfig
from qwen3emb_train.training.validation import BestBy, ValidationConfig

# Settings that may differ between the first start and a restart: they do not decide the resulting weights.
_FREE = (
    "output_dir", "cache_dir", "tracking", "keep_last", "overwrite", "log_every", "save_every", "health_every",
    "allow_changed_data", "resume_step", "verify_contents", "timeout_s", "sync_every_chunk",
)  # fmt: skip
# Settings that the batch plan's fingerprint covers.
_PLANNED = (
    "data", "reading", "lengths", "mixture", "batch_size", "seed", "max_tokens", "max_positives", "max_negatives",
    "false_negatives",
)  # fmt: skip


@dataclass
class TrainingConfig:
    """Settings of every training stage.

    Attributes:
        model: the backbone, and how it is run.
        data: sources by name; data.mine.path=pairs.jsonl adds one.
        validation_data: held-out sources by name; empty = no validation.
        validation: when validation runs, and which checkpoint it chooses.
        reading: what happens to bad lines.
        mixture: how the sources share the steps.
        optimizer: AdamW on float32 master weights.
        schedule: the learning rate over the steps.
        batch_size: queries of a step, over all ranks. There is no gradient accumulation: memory is handled by
            tokens_per_chunk.
        steps: optimizer steps; null where mixture.epochs is set instead.
        tokens_per_chunk: tokens encoded at once (gradient caching); lower it when memory runs out, the result stays the
            same.
        sync_every_chunk: sharded engines only: reduce gradients after every chunk; less memory, more communication.
        precision: precision of the matrix products (autocast); weights and moments stay float32.
        device: auto, cpu, cuda, ...
        deterministic: on a GPU, the same bits from the same steps (torch's deterministic algorithms, also in the
            attention's backward pass); slower. A CPU gives them anyway.
        seed: seed of the order, the draws and dropout.
        max_grad_norm: gradients are scaled down to this L2 norm; null = no clipping.
        log_every: steps between lines of metrics.jsonl; the last step is always logged.
        save_every: steps between checkpoints; null = only at the end.
        non_finite: what happens to a step with a NaN.
        health_every: steps between diagnostics of outputs, gradients and weights (health.json).
        keep_last: complete checkpoints to keep; null = all. The best by validation is kept beyond that.
        resume_step: continue from this checkpoint; null = from the latest.
        allow_changed_data: continue although data, mixture, lengths, batch_size or seed changed since the checkpoint.
        verify_contents: digest all data anew instead of trusting size, time stamp and inode.
        timeout_s: a collective operation that waits longer fails on every rank instead of hanging.
        tracking: an experiment tracker beside metrics.jsonl.
        output_dir: where everything goes. The same command continues an interrupted run.
        cache_dir: directory of tokenised texts; null = ~/.cache/qwen3emb_train/tokens.
        overwrite: delete what output_dir holds and start afresh.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: dict[str, SourceConfig] = field(default_factory=dict)
    validation_data: dict[str, SourceConfig] = field(default_factory=dict)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch_size: int = 64
    steps: int | None = 1000
    tokens_per_chunk: int = 8192
    sync_every_chunk: bool = False
    precision: Precision = Precision.auto
    device: str = "auto"
    deterministic: bool = False
    seed: int = 0
    max_grad_norm: float | None = 1.0
    log_every: int = 10
    save_every: int | None = None
    non_finite: NonFinitePolicy = field(default_factory=NonFinitePolicy)
    health_every: int = 50
    keep_last: int | None = 2
    resume_step: int | None = None
    allow_changed_data: bool = False
    verify_contents: bool = False
    timeout_s: float = 1800.0
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    output_dir: str = "???"
    cache_dir: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty: name at least one source, e.g. 'data.mine.path=pairs.jsonl'.")
        for name, least in (
            ("batch_size", 2), ("steps", 1), ("tokens_per_chunk", 1), ("log_every", 1), ("health_every", 1),
            ("keep_last", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if self.steps is not None and self.mixture.epochs is None:
            self.schedule.require_within(self.steps)
        self._require_what_best_by_asks_for()

    def _require_what_best_by_asks_for(self) -> None:
        best_by, has_sets = self.validation.best_by, bool(getattr(self, "eval_sets", {}))
        if best_by is BestBy.ndcg and not has_sets:
            raise ValueError(
                "validation.best_by=ndcg needs a retrieval set: give train_embedding "
                "eval_sets.NAME.path=DIRECTORY, or choose mrr or loss."
            )
        if best_by is not BestBy.ndcg and has_sets and not self.validation_data:
            raise ValueError(
                f"validation.best_by is {best_by.value}, which held-out rows give, and there is no validation_data: "
                "set validation.best_by=ndcg, or add validation_data.NAME.path=FILE."
            )

    @property
    def tokens_dir(self) -> Path:
        """The parent directory of the token stores."""
        return Path(self.cache_dir or Path.home() / ".cache" / "qwen3emb_train" / "tokens")

    def training_data(self) -> DataSettings:
        return self._data(self.data, self.mixture, self.batch_size, self.steps)

    def held_out_data(self, name: str) -> DataSettings:
        """One pass over one of ``validation_data``."""
        only = {name: self.validation_data[name]}
        return replace(self._data(only, MixtureConfig(epochs=1), self.validation.batch_size, None), held_out=True)

    def _data(
        self, sources: dict[str, SourceConfig], mixture: MixtureConfig, batch_size: int, steps: int | None
    ) -> DataSettings:
        return DataSettings(
            sources, mixture, batch_size, steps, self.seed, self.tokens_dir, self.reading, self.verify_contents
        )

    def inputs(self) -> dict[str, Path]:
        """What decides the result, by name, for ``run.json``."""
        inputs = {f"data.{name}": source_path(source.path) for name, source in self.data.items()}
        return inputs | ({"model": Path(self.model.path)} if Path(self.model.path).is_dir() else {})

    def other_inputs(self) -> dict[str, Path]:
        """Files that are read and do not decide the result: the validation sets."""
        paths = {name: source_path(chosen.path) for name, chosen in self.validation_data.items()}
        paths |= {name: Path(chosen.path) for name, chosen in getattr(self, "eval_sets", {}).items()}
        return {f"validation set {name}": path for name, path in paths.items()}

    def settings(self) -> dict[str, Any]:
        """All settings that decide the result, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def settings_beside_plan(self) -> dict[str, Any]:
        """Those that the batch plan's fingerprint does not cover."""
        return {name: value for name, value in self.settings().items() if name not in _PLANNED}


@dataclass
class TrainEmbeddingConfig(TrainingConfig):
    """Settings of the stage ``train_embedding``: those of every training stage (``TrainingConfig``), and these.

    Attributes:
        eval_sets: retrieval sets by name, scored (nDCG@10, recall@100) when validation_data is.
        lengths: longest texts in tokens, instruction and EOS token included.
        loss: the objective of retrieval-like tasks.
        task_losses: the losses of the other tasks (sts, classification, clustering), distillation, regulariser.
        matryoshka_dims: prefixes that the loss is computed on, as in [1024, 512, 256]; empty = the full vector only.
        retained_graph_tokens: so many tokens of a step keep their graph instead of being encoded twice: more memory,
            less time.
    """

    eval_sets: dict[str, ValidationSetConfig] = field(default_factory=dict)
    lengths: LengthConfig = field(default_factory=LengthConfig)
    loss: EmbeddingLoss = field(default_factory=InfoNCE)
    task_losses: TaskLosses = field(default_factory=TaskLosses)
    matryoshka_dims: list[int] = field(default_factory=list)
    retained_graph_tokens: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if both := self.validation_data.keys() & self.eval_sets.keys():
            raise ValueError(f"validation_data and eval_sets both have {sorted(both)}; give different names.")

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        return settings | {"loss": {"name": type(self.loss).__name__, **settings["loss"]}}


@dataclass
class TrainRerankerConfig(TrainingConfig):
    """Settings of the stage ``train_reranker``: those of every training stage (``TrainingConfig``), and these.

    Attributes:
        loss: point-wise as in the report, or something beyond it.
        max_tokens: longest prompt, template included; what is longer is cut from the document's end.
        max_positives: relevant documents of a query in a step, drawn anew each time, where its source sets no number.
        max_negatives: other documents of a query in a step, likewise. One to eight is the balance that the authors
            advise: with 1:1 all scores went to 1 (QwenLM/Qwen3-Embedding issue 144).
        false_negatives: which negatives are left out as doubtful, where rows bring scores.
    """

    loss: RerankingLoss = field(default_factory=PointWise)
    batch_size: int = 32
    max_tokens: int = 512
    max_positives: int = 1
    max_negatives: int = 8
    false_negatives: FalseNegativeFilter = field(default_factory=FalseNegativeFilter)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("max_positives", 1), ("max_negatives", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        return settings | {"loss": {"name": type(self.loss).__name__, **settings["loss"]}}
