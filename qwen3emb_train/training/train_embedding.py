"""The stage ``train_embedding``: examples and a model directory in, a model directory out.

Serves weakly supervised pretraining and supervised fine-tuning alike: they differ in data, loss fields and model path.

    <output_dir>/  config.yaml  metrics.jsonl  checkpoints/  model/ (the last checkpoint's)  run.json (when finished)
"""

import shutil
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.data.collators import EmbeddingCollator, LengthConfig
from qwen3emb_train.data.mixture import BatchPlan, SourceConfig
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.token_store import TokenStore, copy_rejected, open_token_store
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.distributed import is_main_process, rank, world_size
from qwen3emb_train.lineage import RunRecord, is_up_to_date, new_record, value_digest, with_metrics, write_record
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.encoder import Encoder
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.precision import Precision, autocast, resolve_device, resolve_precision
from qwen3emb_train.training.checkpoints import Checkpoints, TrainingState, link_or_copy, read_state, restore
from qwen3emb_train.training.loop import LoopConfig, fit
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig, ScheduleConfig, build_optimizer
from qwen3emb_train.training.tracking import Tracker, TrackingConfig

PROGRAM = "train_embedding"
# Settings that may differ between the first start and a restart: they do not decide the resulting weights.
_FREE_SETTINGS = ("output_dir", "cache_dir", "tracking", "keep_last", "overwrite", "log_every", "save_every")


@dataclass
class TrainEmbeddingConfig:
    """Settings of the stage; every one can be given on the command line.

    Attributes:
        model: the backbone.
        data: sources by name.
        reading: what happens to bad lines.
        lengths: truncation.
        loss: the objective.
        matryoshka_dims: prefixes the loss is computed on; empty = the full vector only.
        optimizer, schedule: AdamW and the learning rate's course.
        batch_size: queries of a step, over all ranks. There is no gradient accumulation: memory is handled by
            tokens_per_chunk.
        steps: optimizer steps.
        alpha: a source is drawn with p ~ weight * rows**alpha (1 = proportional to size, 0 = by weight alone).
        tokens_per_chunk: tokens encoded at once; lower it when memory runs out, the result stays the same.
        tokens_with_graph: chunks up to so many tokens keep their graph instead of being encoded twice; 0 = none.
        precision: auto, fp32 or bf16 (autocast; weights and moments stay float32).
        device: auto, cpu, cuda, ...
        seed: of the order, the draws and dropout.
        max_grad_norm, log_every, save_every: see ``loop.LoopConfig``.
        keep_last: complete checkpoints to keep; null = all.
        tracking: an experiment tracker beside metrics.jsonl.
        output_dir: where everything goes. The same command continues an interrupted run.
        cache_dir: token stores; null = ~/.cache/qwen3emb_train/tokens.
        overwrite: delete what output_dir holds and start afresh.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: dict[str, SourceConfig] = field(default_factory=dict)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    lengths: LengthConfig = field(default_factory=LengthConfig)
    loss: EmbeddingLoss = field(default_factory=InfoNCE)
    matryoshka_dims: list[int] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch_size: int = 64
    steps: int = 1000
    alpha: float = 0.5
    tokens_per_chunk: int = 8192
    tokens_with_graph: int = 0
    precision: Precision = Precision.auto
    device: str = "auto"
    seed: int = 0
    max_grad_norm: float | None = 1.0
    log_every: int = 10
    save_every: int | None = None
    keep_last: int | None = 2
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    output_dir: str = "???"
    cache_dir: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty: name at least one source, e.g. 'data.mine.path=pairs.jsonl'.")
        for name, least in (("batch_size", 2), ("steps", 1), ("tokens_per_chunk", 1), ("log_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")


def train_embedding(config: TrainEmbeddingConfig) -> Path:
    """Runs the stage, continues it, or finds it done.

    Returns:
        The trained model directory.

    Raises:
        FileNotFoundError, ValueError: bad input, or checkpoints of other settings in ``output_dir``.
        NonFiniteError: the loss or a gradient is no longer finite.
    """
    output_dir = Path(config.output_dir)
    if config.overwrite and is_main_process():
        shutil.rmtree(output_dir, ignore_errors=True)
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE_SETTINGS}
    settings["loss"] = {"name": type(config.loss).__name__, **settings["loss"]}
    inputs = {f"data.{name}": Path(source.path) for name, source in config.data.items()}
    if Path(config.model.path).is_dir():
        inputs["model"] = Path(config.model.path)
    if not config.overwrite and is_up_to_date(output_dir, PROGRAM, settings, inputs):
        _say(f"{output_dir}: up to date")
        return output_dir / "model"

    accelerator = _start_accelerator(config.device)
    tokenizer = load_tokenizer(
        config.model.path, config.model.closing_token, trust_remote_code=config.model.trust_remote_code
    )
    with accelerator.main_process_first():  # one rank tokenises, the others find the store
        stores = _open_stores(config, tokenizer)
    plan = _plan(config, stores)
    collate = EmbeddingCollator(stores, list(config.data), list(config.data.values()), config.lengths, seed=config.seed)

    torch.manual_seed(config.seed)  # LoRA's matrices begin at random
    encoder = load_encoder(config.model).to(accelerator.device)
    optimizer = build_optimizer(encoder, config.optimizer)
    checkpoints = Checkpoints(output_dir / "checkpoints", config.keep_last)
    fresh = TrainingState(plan_fingerprint=plan.fingerprint, config_digest=value_digest(settings))
    state = _resume(checkpoints, encoder, optimizer, fresh)
    objective = _build_objective(config, encoder, accelerator)
    _announce(config, encoder, stores, state, objective.device)

    def batch_at(step: int) -> EmbeddingBatch:
        return collate(step, plan.local(step, rank(), world_size()))

    def save(reached: TrainingState) -> None:
        if record is not None:
            checkpoints.save(encoder, tokenizer, optimizer, reached, _reached(record, reached))
        accelerator.wait_for_everyone()

    record, tracker = None, None  # the main process alone writes
    if is_main_process():
        record = new_record(PROGRAM, settings, inputs)  # once a run: it digests the whole of the inputs
        output_dir.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(output_dir, config.tracking, settings, steps=config.steps, first_step=state.step)
    try:
        state = fit(
            objective, batch_at, encoder, optimizer,
            lambda step: config.optimizer.lr * config.schedule.lr_factor(step, config.steps),
            steps=config.steps, state=state, seed=config.seed,
            config=LoopConfig(config.max_grad_norm, config.log_every, config.save_every),
            save=save, tracker=tracker,
        )  # fmt: skip
    finally:
        if tracker is not None:
            tracker.close()
    if state.step == config.steps and record is not None:
        _finish(config, checkpoints, output_dir, stores, _reached(record, state))
    accelerator.wait_for_everyone()
    return output_dir / "model"


def _start_accelerator(device: str) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Buffers (rotary frequencies) are constants; and a rank may have more chunks, hence forwards, than another.
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=resolve_device(device).type == "cpu", kwargs_handlers=[kwargs])


def _open_stores(config: TrainEmbeddingConfig, tokenizer: TextTokenizer) -> list[TokenStore]:
    cache_dir = Path(config.cache_dir or Path.home() / ".cache" / "qwen3emb_train" / "tokens")
    return [
        open_token_store(
            Path(source.path), tokenizer, cache_dir, instruction=source.instruction, reading=config.reading
        )
        for source in config.data.values()
    ]


def _plan(config: TrainEmbeddingConfig, stores: list[TokenStore]) -> BatchPlan:
    return BatchPlan(
        list(config.data),
        [store.num_rows for store in stores],
        [store.key for store in stores],
        [source.weight for source in config.data.values()],
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        alpha=config.alpha,
    )


def _build_objective(config: TrainEmbeddingConfig, encoder: Encoder, accelerator: Any) -> EmbeddingObjective:
    with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 knows only this name
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = accelerator.prepare_model(encoder)
    precision = resolve_precision(config.precision, accelerator.device)

    def encode(tokens: PackedTokens) -> Tensor:
        # The context is entered for each chunk: autocast remembers weights it has cast, and one remembered from a
        # pass without graph would cut the gradient of the next.
        with autocast(precision, accelerator.device):
            vectors: Tensor = wrapped(tokens)
        return vectors

    return EmbeddingObjective(
        encode=encode,
        loss=config.loss,
        matryoshka_dims=config.matryoshka_dims,
        tokens_per_chunk=config.tokens_per_chunk,
        tokens_with_graph=config.tokens_with_graph,
        no_sync=partial(accelerator.no_sync, wrapped),
        backward_scalar=accelerator.backward,
        device=accelerator.device,
    )


def _resume(
    checkpoints: Checkpoints, encoder: Encoder, optimizer: torch.optim.Optimizer, fresh: TrainingState
) -> TrainingState:
    """Continues from the newest complete checkpoint, or refuses if it belongs to another run."""
    latest = checkpoints.latest()
    if latest is None:
        return fresh
    saved = read_state(latest)
    for name, what in (("config_digest", "settings"), ("plan_fingerprint", "data, batch_size or seed")):
        if getattr(saved, name) != getattr(fresh, name):
            raise ValueError(
                f"{checkpoints.directory} holds checkpoints of a run with other {what} (see {latest / 'run.json'}). "
                "Give another output_dir, or overwrite=true to delete them and start afresh."
            )
    _say(f"continuing from {latest}")
    return restore(latest, encoder, optimizer)


def _reached(record: RunRecord, state: TrainingState) -> RunRecord:
    return with_metrics(record, step=state.step, examples_seen=state.examples_seen, tokens_seen=state.tokens_seen)


def _finish(
    config: TrainEmbeddingConfig,
    checkpoints: Checkpoints,
    output_dir: Path,
    stores: list[TokenStore],
    record: RunRecord,
) -> None:
    latest = checkpoints.latest()
    assert latest is not None, "fit() saves the last step"
    for name, store in zip(config.data, stores, strict=True):
        if copy_rejected(store, output_dir / f"rejected_{name}.jsonl"):
            _say(f"data.{name}: some lines were left out, see {output_dir / f'rejected_{name}.jsonl'}")
    link_or_copy(latest / "model", output_dir / "model")
    write_record(output_dir, record)
    _say(f"model: {output_dir / 'model'}")


def _announce(
    config: TrainEmbeddingConfig, encoder: Encoder, stores: list[TokenStore], state: TrainingState, device: torch.device
) -> None:
    """What runs, in which number types: the log must say it (reliability.md R10)."""
    total = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    precision = resolve_precision(config.precision, device)
    _say(
        f"{config.model.path}: {total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M trained; weights and AdamW moments "
        f"float32, products {precision.value} on {device.type}, {world_size()} rank(s)"
    )
    for name, store in zip(config.data, stores, strict=True):
        _say(f"data.{name}: {store.num_rows:,} rows, {len(store.ids):,} tokens")
    _say(f"steps {state.step} -> {config.steps}, {config.batch_size} queries each")


def _say(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
