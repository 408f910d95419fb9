"""Checkpoints that are whole or absent.

    checkpoints/step_000100/
        model/   config.json, float32 safetensors, tokenizer: a model directory like any other (adapters merged)
        state/   optimizer.safetensors, trainable.safetensors (LoRA only), state.json
        run.json

The directory is written under another name, synced and renamed, so one that carries its name is complete; an older one
is deleted only after that. Random generators need no saving: each step seeds them from (seed, step, rank).
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.lineage import RunRecord, atomic_directory, write_record, write_text
from qwen3emb_train.models.encoder import Encoder
from qwen3emb_train.models.loading import save_encoder
from qwen3emb_train.models.weights import StoredWeights

_STEP_DIRECTORY = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beyond weights and optimizer.

    Attributes:
        step: optimizer steps done; the next one to do has this number.
        examples_seen, tokens_seen: over all ranks.
        plan_fingerprint: of the batch plan: data contents, weights, batch size, seed.
        config_digest: of the settings that decide the result.
    """

    step: int = 0
    examples_seen: int = 0
    tokens_seen: int = 0
    plan_fingerprint: str = ""
    config_digest: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        directory: their parent.
        keep_last: complete checkpoints to keep; None = all.
    """

    directory: Path
    keep_last: int | None = 2

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.directory.is_dir():
            return []
        found = (_STEP_DIRECTORY.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> Path | None:
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def save(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        record: RunRecord,
    ) -> Path:
        """Writes and publishes the checkpoint of ``state.step``; the main process calls it."""
        from safetensors.torch import save_file

        final = self.path(state.step)
        if final.exists():
            return final  # a published step is never overwritten
        with atomic_directory(final) as temporary:
            save_encoder(encoder, temporary / "model")
            tokenizer.save(temporary / "model")
            state_directory = temporary / "state"
            state_directory.mkdir()
            save_file(optimizer_tensors(encoder, optimizer), state_directory / "optimizer.safetensors")
            if (trainable := _adapter_tensors(encoder)) is not None:
                save_file(trainable, state_directory / "trainable.safetensors")
            write_text(state_directory / "state.json", json.dumps(asdict(state), indent=2))
            write_record(temporary, record)
        self._delete_old()
        return final

    def _delete_old(self) -> None:
        if self.keep_last is not None:
            for step in self.steps()[: -self.keep_last]:
                shutil.rmtree(self.path(step))


def read_state(checkpoint: Path) -> TrainingState:
    return TrainingState(**json.loads((checkpoint / "state" / "state.json").read_text(encoding="utf-8")))


def restore(checkpoint: Path, encoder: Encoder, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Loads weights and optimizer state in place; the result continues to the bit."""
    from safetensors.torch import load_file

    adapter = checkpoint / "state" / "trainable.safetensors"
    if adapter.is_file():
        encoder.load_state_dict(load_file(adapter), strict=False)
    else:
        stored = StoredWeights(checkpoint / "model")
        encoder.backbone.load_state_dict({name: stored.load(name) for name in stored.names})
    load_optimizer_tensors(encoder, optimizer, load_file(checkpoint / "state" / "optimizer.safetensors"))
    return read_state(checkpoint)


def optimizer_tensors(encoder: Encoder, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors under ``<parameter name>/<kind>``: no pickle, no dependence on parameter numbers."""
    return {
        f"{name}/{kind}": value.detach().cpu().contiguous()
        for name, parameter in encoder.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(encoder: Encoder, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(encoder.named_parameters())
    for key, value in tensors.items():
        name, kind = key.rsplit("/", 1)
        parameter = parameters[name]
        # torch keeps the step counter of a fused optimizer beside the parameter, like its moments.
        optimizer.state[parameter][kind] = value.to(parameter.device)


def _adapter_tensors(encoder: Encoder) -> dict[str, Tensor] | None:
    """Trainable weights where they are only a part (LoRA); None in full fine-tuning, where model/ holds them all."""
    trainable = {name: p.detach().contiguous() for name, p in encoder.named_parameters() if p.requires_grad}
    return trainable if len(trainable) < sum(1 for _ in encoder.parameters()) else None


def link_or_copy(source: Path, target: Path) -> None:
    """Copies a directory by hard links where the file system has them: a final model costs no second disk space."""
    copy: Callable[[str, str], Any] = _link
    with atomic_directory(target) as temporary:
        shutil.copytree(source, temporary, copy_function=copy, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
