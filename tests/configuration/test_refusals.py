"""Settings from elsewhere: they read no secrets, name no files outside, and stay small."""

from pathlib import Path

import pytest

from qwen3emb_train.configuration.arguments import ConfigError
from qwen3emb_train.configuration.refusals import read_yaml, refuse_files, refuse_values
from tests.cli.test_front_door import TRAIN, Refused, refused

__all__ = ["refused"]


@pytest.mark.parametrize(
    "settings",
    [
        ["tracking.project=oc.env", "data.mine.instruction=${${tracking.project}:MY_SECRET}"],
        ["data.mine.instruction=${oc.env:MY_SECRET}"],
        ["data.mine.instruction=${oc.decode:'x'}"],
    ],
)
def test_no_interpolation_reads_the_environment(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    assert "hunter2" not in refused(*TRAIN, *settings)


def test_a_defaults_entry_reads_no_environment(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    text = "defaults: [/train_embedding, {override schedule: '${oc.env:MY_SECRET}'}, _self_]\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert "hunter2" not in refused(*TRAIN, "--config-dir", tmp_path, "--config-name", "mine")


@pytest.mark.parametrize("name", ["x/../../../LEAKED", "..", "a\\b", "a\x1b[2J", "", "n" * 300])
def test_a_name_is_a_file_name(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        refuse_values({"data": {name: {"path": "a.jsonl"}}})


def test_aliases_are_counted_as_often_as_they_stand(refused: Refused, tmp_path: Path) -> None:
    """Twelve lines stand for ten thousand million values."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(bomb)
    (tmp_path / "mine.yaml").write_text(f"defaults: [/train_embedding, _self_]\n{bomb}")
    assert "mine.yaml: its aliases" in refused(*TRAIN, "--config-dir", tmp_path, "--config-name", "mine")
    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 1200 + "]" * 1200])
def test_what_holds_itself_or_is_too_deep_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_yaml(text)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        refuse_files(tmp_path, [])


def test_a_deep_value_on_the_command_line_is_refused(refused: Refused) -> None:
    assert "deeply" in refused(*TRAIN, f"steps={'[' * 3000}{']' * 3000}")


def test_escapes_in_a_message_are_shown(refused: Refused) -> None:
    told = refused("verify", "path=no\x1b]0;owned\x07\x9b2Jsuch")
    assert "\x1b" not in told
    assert "\x9b" not in told
    assert "\\x1b]0;owned\\x07\\x9b2J" in told


def test_a_number_that_no_float_holds_is_named(refused: Refused, tmp_path: Path) -> None:
    large = "9" * 400
    assert "max_grad_norm: a number is too large" in refused(*TRAIN, f"max_grad_norm={large}")
    (tmp_path / "mine.yaml").write_text(f"defaults: [/train_embedding, _self_]\noptimizer:\n  eps: {large}\n")
    assert "mine.yaml: a number is too large" in refused(*TRAIN, "--config-dir", tmp_path, "--config-name", "mine")


def test_an_interpolation_of_another_kind_is_refused(refused: Refused) -> None:
    assert "data.mine.columns" in refused(*TRAIN, "data.mine.columns=${output_dir}")
