"""Checkpoints that are whole or absent.

    checkpoints/step_000100/
        model/   config.json, float32 safetensors, tokenizer, prompts: a plain model directory (adapters merged)
        state/   pieces_* (optimizer, see state_files), trainable.safetensors (LoRA only), state.json, digests_*
        run.json

The directory is written under another name by all ranks together, synced and renamed, so one that carries its name is
complete; an older one is deleted only after that. Random generators need no saving: each step seeds them anew.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.distributed import any_rank, is_main_process, rank, together
from qwen3emb_train.lineage import RunRecord, atomic_directory, write_record, write_text, writing_name
from qwen3emb_train.model_directory import STEP_DIRECTORY, Prompts, step_directory
from qwen3emb_train.models.loading import loadable_name, save_model
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.models.unread import UnreadWeights
from qwen3emb_train.models.weights import StoredWeights
from qwen3emb_train.training.checkpoint_digests import write_digests
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.state_files import DELETE_IT, StoredPieces, write_pieces


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beyond weights and optimizer.

    Attributes:
        step: optimizer steps done; the next one to do has this number.
        examples_seen, tokens_seen: over all ranks.
        plan_fingerprint: of the batch plan: data contents, weights, batch size, seed.
        config_digest: of the settings that decide the result.
        optimizer_layout: ``Engine.optimizer_layout`` of the state beside it.
        validated_step: the last step whose validation is done: a validation that was interrupted is repeated.
        best_step, best_value: the best validation so far; part of the state, so that both are published together.
    """

    step: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
    plan_fingerprint: str = ""
    config_digest: str = ""
    optimizer_layout: str = "rows"
    validated_step: int = 0
    best_step: int | None = None
    best_value: float | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        directory: their parent.
        keep_last: complete checkpoints to keep; None = all. The best one is kept beyond that.
        prompts: what training puts before texts; recorded in every ``model/``.
    """

    directory: Path
    keep_last: int | None = 2
    prompts: Prompts | None = None

    def path(self, step: int) -> Path:
        return step_directory(self.directory, step)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.directory.is_dir():
            return []
        found = (STEP_DIRECTORY.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> Path | None:
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def at(self, step: int | None) -> Path | None:
        """The checkpoint of a step; None asks for the latest, if there is one.

        Raises:
            FileNotFoundError: the step was named and is not there.
        """
        if step is None:
            return self.latest()
        if step not in self.steps():
            raise FileNotFoundError(
                f"{self.directory} has no checkpoint of step {step}; there are {self.steps() or 'none'}. "
                "Set resume_step to one of them, or to null for the latest."
            )
        return self.path(step)

    def save(
        self,
        engine: Engine,
        tokenizer: TextTokenizer | RerankerTokenizer,
        state: TrainingState,
        record: RunRecord | None,
    ) -> Path:
        """Writes and publishes the checkpoint of ``state.step``; every rank calls it.

        Args:
            engine: of the run.
            tokenizer: saved next to the weights.
            state: where the run stands.
            record: on the main process; None on the others.

        Raises:
            OSError: on every rank, when one of them could not write; what was published before stays as it was.
        """
        final = self.path(state.step)
        if any_rank(is_main_process() and final.exists(), engine.device):
            return final  # a published step is never overwritten
        state = replace(state, optimizer_layout=engine.optimizer_layout)
        parameters = engine.gather_parameters()
        with _written_together(final, engine.device) as temporary:
            write_pieces(temporary / "state", engine.optimizer_pieces(), rank())
            if record is not None:
                _write_whole(temporary, engine.model, parameters, tokenizer, state)
                if self.prompts is not None:
                    self.prompts.write(temporary / "model")
                write_record(temporary, record)
            write_digests(temporary, rank())
        with together(engine.device):
            if is_main_process():
                self._delete_old(state.best_step)
        return final

    def _delete_old(self, best_step: int | None) -> None:
        if self.keep_last is not None:
            for step in self.steps()[: -self.keep_last]:
                if step != best_step:  # renamed first: the name never belongs to an incomplete directory
                    self.path(step).rename(self.directory / f".step_{step:06d}.deleting")
        for path in self.directory.glob(".step_*"):  # also what a killed run was writing or deleting
            shutil.rmtree(path)


def read_state(checkpoint: Path) -> TrainingState:
    """The state in a checkpoint.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = checkpoint / "state" / "state.json"
    try:
        return TrainingState(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}). {DELETE_IT}") from error


def load_weights(checkpoint: Path, model: TextModel) -> None:
    """Puts the checkpoint's weights into a model, before an engine shards it; an unread one is pointed to them.

    Raises:
        ValueError: they are damaged, or some are missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    is_whole = all(parameter.requires_grad for parameter in model.parameters())
    path = checkpoint / "model" if is_whole else checkpoint / "state" / "trainable.safetensors"
    try:
        if is_whole:
            stored = StoredWeights(path)
            if model.unread is not None:
                _point_to(stored, model)
                return
            weights = {loadable_name(model, name): stored.load(name) for name in stored.names}
        else:
            weights = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged ({error}). {DELETE_IT}") from error
    loaded = model.load_state_dict(weights, strict=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrong := [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if name in trained)]:
        raise ValueError(f"{path}: not the weights of this model: {wrong[:3]} missing or unknown. {DELETE_IT}")


def _point_to(stored: StoredWeights, model: TextModel) -> None:
    """The weights of an unread model are read from here."""
    names = {loadable_name(model, name): name for name in stored.names}
    for name, parameter in model.named_parameters():
        if name not in names or stored.shape(names[name]) != tuple(parameter.shape):
            raise ValueError(f"not the weights of this model: {name} is missing or of another shape")
    model.unread = UnreadWeights(stored, names)


def load_optimizer(checkpoint: Path, engine: Engine) -> None:
    """Puts the optimizer's state back; with ``load_weights`` the run continues as if unbroken.

    Raises:
        ValueError: the state is of another engine's layout, damaged, or not whole.
    """
    saved = read_state(checkpoint).optimizer_layout
    if saved != engine.optimizer_layout:
        raise ValueError(
            f"{checkpoint}: its optimizer state is laid out as {saved!r}, this run needs {engine.optimizer_layout!r}. "
            "Start with the same engine and number of processes, or begin a new run from its model/ directory. "
            "(Single process, DDP and FSDP2 read one another's states at any number of processes; ZeRO's do not.)"
        )
    stored = StoredPieces(checkpoint / "state")
    # There is none at all as long as every update was skipped.
    if stored.shapes and (missing := engine.optimizer_names - {key.rsplit("/", 1)[0] for key in stored.shapes}):
        raise ValueError(f"{stored.directory}: no optimizer state of {sorted(missing)[:3]} in it. {DELETE_IT}")
    engine.load_optimizer(stored.rows, stored.shapes)


def link_or_copy(source: Path, target: Path) -> None:
    """Copies a directory by hard links where the file system has them: a final model takes no extra disk space."""
    copy: Callable[[str, str], Any] = _link
    with atomic_directory(target) as temporary:
        shutil.copytree(source, temporary, copy_function=copy, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _write_whole(
    directory: Path,
    model: TextModel,
    parameters: dict[str, Tensor],
    tokenizer: TextTokenizer | RerankerTokenizer,
    state: TrainingState,
) -> None:
    """What the main process writes: the model and where the run stands."""
    from safetensors.torch import save_file

    save_model(model, directory / "model", parameters=parameters)
    tokenizer.save(directory / "model")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if len(trained) < len(parameters):  # LoRA: model/ has the adapters merged, so they are kept apart as well
        adapters = {name: parameters[name].contiguous().cpu() for name in sorted(trained)}
        save_file(adapters, directory / "state" / "trainable.safetensors")
    write_text(directory / "state" / "state.json", json.dumps(asdict(state), indent=2))


@contextmanager
def _written_together(final: Path, device: torch.device) -> Iterator[Path]:
    """``atomic_directory`` for all ranks: published if every rank has written its part, else nowhere.

    Needs a directory that all ranks see (one machine, or a shared file system).
    """
    manager: AbstractContextManager[Path] = (
        atomic_directory(final) if is_main_process() else nullcontext(writing_name(final))
    )
    temporary = writing_name(final)
    with together(device):
        manager.__enter__()
        if is_main_process():
            (temporary / "state").mkdir()
    try:
        with together(device):
            yield temporary
    except BaseException as error:
        # Only the main process has something to clean up; then it raises the error again, like the others.
        manager.__exit__(type(error), error, error.__traceback__)
        raise
    with together(device):
        manager.__exit__(None, None, None)
