"""The stage: resumed equals uninterrupted to the bit, also after kill -9; bad input stops it with a message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.training import stage
from qwen3emb_train.training.checkpoints import Checkpoints, read_state
from qwen3emb_train.training.health import NonFiniteError
from qwen3emb_train.training.loop import fit
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.signals import StoppedBySignal, StopSignal
from qwen3emb_train.training.train_embedding import TrainEmbeddingConfig, train_embedding
from tests.training.setup import make_config, write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def assert_bit_equal(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss_and_leaves_everything_a_next_stage_needs(
    tiny_qwen3: Path, rows: Path, tmp_path: Path
) -> None:
    model = train_embedding(make_config(tiny_qwen3, rows, tmp_path / "run", steps=20, log_every=1, save_every=8))
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [f["step"] for f in metrics] == list(range(1, 21))
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert metrics[-1]["examples_seen"] == 160
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [16, 20]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["inputs"]) == {"data.rows", "model"}
    assert_bit_equal(model, tmp_path / "run" / "checkpoints" / "step_000020" / "model")


@pytest.mark.parametrize("lora", [0, 4])
def test_resumed_equals_uninterrupted_to_the_bit(
    tiny_qwen3: Path, rows: Path, tmp_path: Path, lora: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=lora, dropout=0.2 if lora else 0.0))
    whole = make_config(tiny_qwen3, rows, tmp_path / "whole", model=base, save_every=2)
    cut = make_config(tiny_qwen3, rows, tmp_path / "cut", model=base, save_every=2)
    expected = train_embedding(whole)

    def dying_fit(*args, **kwargs):  # type: ignore[no-untyped-def]
        save = kwargs["save"]

        def save_then_die(state) -> None:  # type: ignore[no-untyped-def]
            save(state)
            if state.step == 4:
                raise KeyboardInterrupt

        return fit(*args, **(kwargs | {"save": save_then_die}))

    with monkeypatch.context() as context:
        context.setattr(stage, "fit", dying_fit)
        with pytest.raises(KeyboardInterrupt):
            train_embedding(cut)
    assert not (tmp_path / "cut" / "run.json").exists()
    resumed = train_embedding(cut)
    assert_bit_equal(resumed, expected)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_killed_in_the_middle_the_same_command_ends_with_the_same_bits(
    tiny_qwen3: Path, rows: Path, tmp_path: Path
) -> None:
    """kill -9 of a real process between checkpoints, then the same command line again."""

    def command(output_dir: Path) -> list[str]:
        return [
            sys.executable, "-m", "qwen3emb_train", "train_embedding",
            f"model.path={tiny_qwen3}", f"data.rows.path={rows}", "batch_size=8", "steps=40", "save_every=4",
            "precision=fp32", "device=cpu", "optimizer.lr=1e-3", "log_every=1",
            f"cache_dir={tmp_path / 'cache'}", f"output_dir={output_dir}",
        ]  # fmt: skip

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole"), check=True, env=environment, capture_output=True)
    killed = subprocess.Popen(
        command(tmp_path / "cut"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = Checkpoints(tmp_path / "cut" / "checkpoints")
    deadline = time.monotonic() + 120
    while not checkpoints.steps() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it was over before it could be killed: the test would be vacuous"
    assert 0 < checkpoints.steps()[-1] < 40
    again = subprocess.run(command(tmp_path / "cut"), check=True, env=environment, capture_output=True, text=True)
    assert "continuing from" in again.stdout
    assert_bit_equal(tmp_path / "cut" / "model", tmp_path / "whole" / "model")


def test_a_signal_saves_and_the_next_start_continues(
    tiny_qwen3: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_embedding(make_config(tiny_qwen3, rows, tmp_path / "whole"))
    config = make_config(tiny_qwen3, rows, tmp_path / "cut")
    original = StopSignal.only_note

    def note_and_ask(self: StopSignal) -> None:
        original(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(StopSignal, "only_note", note_and_ask)
        with pytest.raises(StoppedBySignal, match="after step 1; saved"):
            train_embedding(config)
    latest = Checkpoints(tmp_path / "cut" / "checkpoints").latest()
    assert latest is not None
    assert read_state(latest).step == 1
    assert not (tmp_path / "cut" / "run.json").exists()
    assert_bit_equal(train_embedding(config), expected)


def test_a_finished_stage_is_up_to_date_until_an_input_changes(
    tiny_qwen3: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tiny_qwen3, rows, tmp_path / "run", steps=1)
    train_embedding(config)
    train_embedding(config)
    assert "up to date" in capsys.readouterr().out
    write_rows(rows, num_rows=25)
    with pytest.raises(ValueError, match=r"contents of data.rows changed \(24 -> 25 rows\).*allow_changed_data=true"):
        train_embedding(config)
    config.allow_changed_data, config.steps = True, 1
    train_embedding(config)


def test_checkpoints_of_other_settings_are_not_continued(tiny_qwen3: Path, rows: Path, tmp_path: Path) -> None:
    train_embedding(make_config(tiny_qwen3, rows, tmp_path / "run", steps=1))
    other = make_config(tiny_qwen3, rows, tmp_path / "run", steps=1, optimizer=OptimizerConfig(lr=2e-3))
    with pytest.raises(ValueError, match="checkpoints of a run with other settings"):
        train_embedding(other)
    other.overwrite = True
    train_embedding(other)


def test_a_half_written_checkpoint_is_never_chosen(tiny_qwen3: Path, rows: Path, tmp_path: Path) -> None:
    train_embedding(make_config(tiny_qwen3, rows, tmp_path / "run", steps=2))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    (checkpoints.directory / ".step_000009.writing" / "model").mkdir(parents=True)
    assert checkpoints.steps() == [2]


def test_a_non_finite_loss_stops_before_the_update(tiny_qwen3: Path, rows: Path, tmp_path: Path) -> None:
    config = make_config(tiny_qwen3, rows, tmp_path / "run", optimizer=OptimizerConfig(lr=1e30), max_grad_norm=None)
    with pytest.raises(NonFiniteError, match=r"step \d+, source rows.*No update was applied.*Lower optimizer.lr"):
        train_embedding(config)


def test_no_data_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="data is empty: name at least one source"):
        TrainEmbeddingConfig(output_dir="x")
