"""Ctrl-C: the first saves after the step, as SIGTERM does; the second ends at once; elsewhere it is one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen3emb_train.configuration import running
from qwen3emb_train.configuration.program import EXIT_STOPPED
from qwen3emb_train.training import signals
from qwen3emb_train.training.signals import StoppedBySignal, StopSignal
from tests.tiny import make_tiny_model_directory

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_first_is_noted_and_the_second_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopSignal() as stop:
        stop.only_note()
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert "saving after this step" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)  # the launcher's, which passes on what the terminal sent to all
        assert not capfd.readouterr().err
        monkeypatch.setattr(signals, "_SAME_INTERRUPT_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_while_loading_it_ends_the_program() -> None:
    with pytest.raises(StoppedBySignal, match="SIGINT while loading"), StopSignal():
        signal.raise_signal(signal.SIGINT)


def test_in_other_programs_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from qwen3emb_train.cli.programs import PROGRAMS

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_refuse_lone_process", interrupted)
    assert running.run_program(PROGRAMS["merge"], ["models=[a,b]", "output_dir=o"]) == EXIT_STOPPED
    assert capsys.readouterr().err.strip().startswith("stopped by Ctrl-C")


@pytest.mark.slow
def test_at_step_37_of_100_nothing_is_lost(tmp_path: Path) -> None:
    """Interrupted once and continued, as from a terminal; the weights are those of a run that nobody interrupted."""
    model = make_tiny_model_directory(tmp_path / "model")
    command = [
        sys.executable, "-m", "qwen3emb_train", "train_embedding", f"model.path={model}", "device=cpu", "batch_size=4",
        f"data.a.path={ROOT}/recipes/tiny/data/pairs.jsonl", "steps=100", "log_every=1", f"cache_dir={tmp_path}/cache",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    begun = subprocess.Popen(
        [*command, f"output_dir={tmp_path}/run"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    metrics, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 37:
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    begun.send_signal(signal.SIGINT)
    told = begun.communicate()[0]
    assert begun.returncode == EXIT_STOPPED, told
    assert "stopped by a signal after step" in told
    for name in ("run", "whole"):
        subprocess.run([*command, f"output_dir={tmp_path}/{name}"], cwd=ROOT, env=environment, check=True)
    run, whole = (tmp_path / name / "model" / "model.safetensors" for name in ("run", "whole"))
    assert run.read_bytes() == whole.read_bytes()
