"""Runs a training stage: examples and a model directory in, a model directory out.

<output_dir>/  config.yaml  metrics.jsonl  health.json  plan.json  checkpoints/
               model/ (the last checkpoint's)  run.json (when finished)
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from qwen3emb_train.data.batches import TrainingBatch
from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.token_store import copy_rejected
from qwen3emb_train.data.trained_prompts import trained_prompts
from qwen3emb_train.data.training_data import DataSettings, TrainingData, plan_difference
from qwen3emb_train.distributed import gather_counts, is_main_process, rank, together, world_size
from qwen3emb_train.index.query_prompts import shown
from qwen3emb_train.lineage import (
    RunRecord,
    claim,
    digest_cached,
    is_up_to_date,
    new_record,
    value_digest,
    with_contents,
    with_metrics,
    write_record,
    write_text,
)
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.limits import require_positions, require_rows_for
from qwen3emb_train.models.precision import resolve_precision
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.training.checkpoint_digests import require_intact
from qwen3emb_train.training.checkpoints import (
    Checkpoints,
    TrainingState,
    link_or_copy,
    load_optimizer,
    load_weights,
    read_state,
)
from qwen3emb_train.training.config import TrainingConfig
from qwen3emb_train.training.determinism import deterministic_algorithms
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.engines.launch import Launch, build_engine, close_process_group, start
from qwen3emb_train.training.engines.probe import require_products
from qwen3emb_train.training.loop import LoopConfig, fit, is_complete
from qwen3emb_train.training.monitor import Monitor
from qwen3emb_train.training.objective import Objective
from qwen3emb_train.training.output import CHECKPOINTS, MODEL, PLAN_FILE, delete_former, held, require_own
from qwen3emb_train.training.prefetch import Prefetch
from qwen3emb_train.training.retrieval_validation import ValidationSet
from qwen3emb_train.training.signals import StoppedBySignal, StopSignal
from qwen3emb_train.training.tracking import Tracker
from qwen3emb_train.training.validation import Validation


class Stage(ABC):
    """The parts that differ between the training programs; ``run_stage`` does the rest.

    Attributes:
        program: its name.
        template: around queries and documents.
        config: its settings.
    """

    program: ClassVar[str]
    template: ClassVar[Template]

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Refuses, before anything is loaded, what would fail at some step."""

    @abstractmethod
    def load_tokenizer(self) -> Any:
        """With ``save(directory)``."""

    @abstractmethod
    def open_data(self, tokenizer: Any, settings: DataSettings) -> TrainingData[Any]:
        """Training or held-out batches."""

    def open_validation_sets(self, tokenizer: Any, prompts: Prompts) -> dict[str, ValidationSet]:
        """Retrieval sets to evaluate during training, this rank's share of each tokenised; none unless overridden."""
        return {}

    @abstractmethod
    def load_model(self, tokenizer: Any, *, unread: bool = False) -> TextModel:
        """On the CPU, in float32; ``unread``: see ``models.loading.load_encoder``."""

    @abstractmethod
    def text_limits(self) -> dict[str, int]:
        """Tokens of the longest texts, by the setting that limits them."""

    @abstractmethod
    def build_objective(self, engine: Engine) -> Objective:
        """The forward and backward pass of a step."""


def run_stage(stage: Stage) -> Path:
    """Runs the stage, continues it, or finds it done.

    Returns:
        The trained model directory.

    Raises:
        FileNotFoundError, ValueError: bad input, or checkpoints of other settings in ``output_dir``.
        NonFiniteError: the loss or a gradient is no longer finite.
        StoppedBySignal: SIGTERM or SIGUSR1 came; what was done is saved.
    """
    with StopSignal() as stop:
        try:
            model = _run(stage, stop)
        except StoppedBySignal:
            if not stop.is_loading:  # then every rank is here
                close_process_group()
            raise
        close_process_group()
        return model


def _run(stage: Stage, stop: StopSignal) -> Path:
    config = stage.config
    output_dir = Path(config.output_dir)
    stage.check()
    inputs = config.inputs()
    if not config.overwrite and is_up_to_date(output_dir, stage.program, config.settings(), inputs, _digest_of(config)):
        _say(f"{output_dir}: up to date")
        return output_dir / MODEL
    require_own(output_dir, stage.program, inputs | config.other_inputs())
    launch = start(config.device, config.timeout_s)
    with held(output_dir, launch.device), deterministic_algorithms(config.deterministic):
        _train(stage, stop, launch)
    return output_dir / MODEL


def _train(stage: Stage, stop: StopSignal, launch: Launch) -> None:
    config, output_dir = stage.config, Path(stage.config.output_dir)
    tokenizer = stage.load_tokenizer()
    torch.manual_seed(config.seed)  # LoRA's matrices begin at random
    model = stage.load_model(
        tokenizer, unread=launch.reads_parts
    )  # before the data: what refuses it would do so after hours of tokenising
    require_rows_for(tokenizer.hf, model.backbone, config.model.path)
    for setting, longest in stage.text_limits().items():
        require_positions(model.backbone, longest, setting)
    data, held_out = _open_together(stage, tokenizer, stop)
    _require_same_data(
        {"data": data} | {f"validation_data.{name}": one for name, one in held_out.items()}, launch.device
    )
    data.plan.check_world_size(world_size())
    config.schedule.require_within(data.steps)
    prompts = trained_prompts(config.data, data.stores, stage.template)
    sets = stage.open_validation_sets(tokenizer, prompts)
    checkpoints = Checkpoints(output_dir / CHECKPOINTS, config.keep_last, prompts)
    fresh = TrainingState(plan_fingerprint=data.fingerprint, config_digest=value_digest(config.settings_beside_plan()))
    checkpoint = None if config.overwrite else checkpoints.at(config.resume_step)
    state = fresh if checkpoint is None else _continued(config, checkpoint, data, fresh)
    _require_same_start(state, output_dir, launch.device)
    if checkpoint is not None:
        with together(launch.device, "read its part of the checkpoint"):
            require_intact(checkpoint, rank(), world_size())
        _say(f"continuing from {checkpoint}")
        load_weights(checkpoint, model)
    counts = _count_parameters(model)  # before they are sharded
    engine = build_engine(
        launch, model, config.optimizer, resolve_precision(config.precision, launch.device),
        max_grad_norm=config.max_grad_norm, sync_every_chunk=config.sync_every_chunk,
    )  # fmt: skip
    require_products(engine)
    if checkpoint is not None:
        load_optimizer(checkpoint, engine)
    if model.unread is not None:
        _say(f"weights: each rank read its own part of {model.unread.stored.directory}")
    _announce(config, engine, counts, data, prompts, state)
    objective = stage.build_objective(engine)
    monitor = Monitor(
        engine, objective, every=config.health_every, steps=data.steps, first_step=state.step,
        max_grad_norm=config.max_grad_norm, output_dir=output_dir,
    )  # fmt: skip

    def batch_at(step: int) -> TrainingBatch:
        batch: TrainingBatch = objective.prepare(data.batch(step, rank(), world_size()))
        return batch

    def save(reached: TrainingState) -> None:
        checkpoints.save(engine, tokenizer, reached, None if record is None else _reached(record, reached))

    record, tracker = None, None  # the main process alone writes
    if is_main_process():
        record = new_record(stage.program, config.settings(), config.inputs(), _digest_of(config))
        if config.overwrite:  # only now: everything that could be refused has been checked
            delete_former(output_dir)
        claim(output_dir, stage.program)
        write_text(output_dir / PLAN_FILE, json.dumps(data.components, indent=2) + "\n")
        tracker = Tracker(output_dir, config.tracking, config.settings(), steps=data.steps, first_step=state.step)
        monitor.recall(tracker.path)
    validation = None
    if held_out or sets:
        validation = Validation(held_out, objective, config.validation, sets, config.tokens_per_chunk)
    stop.wait_for_all()
    try:
        with Prefetch(batch_at, until=data.steps) as batch_of:
            state = fit(
                objective, batch_of, engine,
                lambda step: config.optimizer.lr * config.schedule.lr_factor(step, data.steps),
                steps=data.steps, state=state, seed=config.seed,
                config=LoopConfig(config.max_grad_norm, config.log_every, config.save_every, config.non_finite),
                save=save, stop=stop, monitor=monitor, tracker=tracker, validation=validation,
            )  # fmt: skip
    finally:
        if tracker is not None:
            tracker.close()
    if not is_complete(state, data.steps, validation):
        raise StoppedBySignal(f"stopped by a signal after step {state.step}; saved. The same command continues.")
    if record is not None:
        _finish(config, checkpoints, output_dir, data, _reached(record, state))
    stop.wait_for_all()


def _digest_of(config: TrainingConfig) -> Callable[[Path], str]:
    return partial(digest_cached, cache=config.tokens_dir / "digests", verify=config.verify_contents)


def _open_together(
    stage: Stage, tokenizer: Any, stop: StopSignal
) -> tuple[TrainingData[Any], dict[str, TrainingData[Any]]]:
    """Training and held-out data, tokenised by all ranks together."""
    opened = _open(stage, tokenizer)
    stop.wait_for_all()
    return opened


def _require_same_data(data: Mapping[str, TrainingData[Any]], device: torch.device) -> None:
    """Before the first step: ranks of several hosts may have opened other files under the same path.

    Raises:
        ValueError: on every rank.
    """
    for name, one in data.items():
        for source, store in one.stores.items():
            if len(set(rows := gather_counts(store.num_rows, device))) > 1:
                raise ValueError(
                    f"The ranks see other rows of {name}.{source}: {rows} of them. Its path must hold the same files "
                    "on every host."
                )
        if len(set(gather_counts(int(one.fingerprint[:15], 16), device))) > 1:
            raise ValueError(
                f"The ranks see other contents of {name}, or read them otherwise. Its paths must hold the same files "
                "on every host, and every rank must be started with the same settings."
            )


def _open(stage: Stage, tokenizer: Any) -> tuple[TrainingData[Any], dict[str, TrainingData[Any]]]:
    config = stage.config
    data = stage.open_data(tokenizer, config.training_data())
    return data, {name: stage.open_data(tokenizer, config.held_out_data(name)) for name in config.validation_data}


def _continued(
    config: TrainingConfig, checkpoint: Path, data: TrainingData[Any], fresh: TrainingState
) -> TrainingState:
    """The checkpoint's state, if this run is the one that wrote it."""
    saved = read_state(checkpoint)
    elsewhere = "Give another output_dir, or overwrite=true to delete them and start afresh."
    if saved.config_digest != fresh.config_digest:
        raise ValueError(
            f"{checkpoint.parent} holds checkpoints of a run with other settings (see {checkpoint / 'run.json'}). "
            f"{elsewhere}"
        )
    if saved.plan_fingerprint != fresh.plan_fingerprint:
        difference = _plan_difference(Path(config.output_dir) / PLAN_FILE, data.components)
        if not config.allow_changed_data:
            raise ValueError(
                f"{checkpoint.parent} holds checkpoints of a run with other batches: {difference}. Set "
                f"allow_changed_data=true to go on from step {saved.step} all the same. {elsewhere}"
            )
        if later := [step for step in Checkpoints(checkpoint.parent).steps() if step > saved.step]:
            raise ValueError(
                f"{checkpoint.parent} holds checkpoints of later steps {later} with other batches, and a published one "
                f"is never overwritten. Delete them to go on from step {saved.step}. {elsewhere}"
            )
        _say(f"continuing with changed data: {difference}")
        return TrainingState(**{**vars(saved), "plan_fingerprint": fresh.plan_fingerprint})
    return saved


def _require_same_start(state: TrainingState, output_dir: Path, device: torch.device) -> None:
    if len(set(steps := gather_counts(state.step, device))) > 1:
        raise ValueError(
            f"The ranks would begin at steps {steps}: they do not all see the same checkpoints. "
            f"output_dir={output_dir} must be on a file system that all machines share."
        )


def _plan_difference(path: Path, components: Mapping[str, object]) -> str:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        saved = {}
    return plan_difference(saved, components) or "data, mixture, lengths, batch_size or seed"


def _reached(record: RunRecord, state: TrainingState) -> RunRecord:
    best = {} if state.best_step is None else {"best_step": state.best_step, "best_value": state.best_value}
    return with_metrics(
        record, step=state.step, examples_seen=state.examples_seen, tokens_seen=state.tokens_seen, **best
    )


def _finish(
    config: TrainingConfig, checkpoints: Checkpoints, output_dir: Path, data: TrainingData[Any], record: RunRecord
) -> None:
    latest = checkpoints.latest()
    assert latest is not None, "fit() saves the last step"
    for name, store in data.stores.items():
        if copy_rejected(store, output_dir / f"rejected_{name}.jsonl"):
            _say(f"data.{name}: some lines were left out, see {output_dir / f'rejected_{name}.jsonl'}")
    link_or_copy(latest / MODEL, output_dir / MODEL)
    write_record(output_dir, with_contents(record, output_dir, MODEL))
    _say(f"model: {output_dir / MODEL}")


def _count_parameters(model: TextModel) -> tuple[int, int]:
    """All, and the trained ones."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _announce(
    config: TrainingConfig,
    engine: Engine,
    counts: tuple[int, int],
    data: TrainingData[Any],
    prompts: Prompts,
    state: TrainingState,
) -> None:
    """Prints what runs and in which dtypes: a wrong one would not show otherwise."""
    total, trained = counts
    _say(
        f"{config.model.path}: {total / 1e6:.1f}M parameters, {trained / 1e6:.1f}M trained; weights and AdamW moments "
        f"float32, products {engine.precision.value} on {engine.device.type}, {engine.name} on {world_size()} rank(s)"
    )
    for line in data.describe():
        _say(line)
    _say(f"instruction: {shown(prompts.query) or 'none (bare queries)'}")
    _say(f"steps {state.step} -> {data.steps}, {config.batch_size} queries each")


def _say(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
