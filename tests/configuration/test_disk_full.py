"""A disk that fills up ends in one line, also where a library hides the system's error."""

import errno

import pytest

from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration import running


class LibraryError(Exception):
    """As safetensors and tokenizers raise them."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        LibraryError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_it_is_one_line_with_a_remedy(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compose(*_: object) -> None:
        raise error

    monkeypatch.setattr("qwen3emb_train.configuration.compose.compose", compose)
    assert running.run_program(next(iter(PROGRAMS.values())), []) == 2
    assert "no space left on the disk" in capsys.readouterr().err


def test_faults_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def compose(*_: object) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr("qwen3emb_train.configuration.compose.compose", compose)
    with pytest.raises(TypeError):
        running.run_program(next(iter(PROGRAMS.values())), [])
