"""Pushing: nothing without being asked, a list before anything is sent, private, and only what was verified."""

from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train import lineage
from qwen3emb_train.export.checks import VerificationError
from qwen3emb_train.export.hub import HubConfig, push
from tests.export.folders import export
from tests.tiny import make_tiny_model_directory


class RecordingApi:
    """Takes the calls that huggingface_hub.HfApi would send."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id} | settings))

    def upload_folder(self, **settings: Any) -> None:
        self.calls.append(("upload_folder", settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "1_Pooling/config.json"):
        (tmp_path / "mine" / name).write_text("{}")
    lineage.write_record(tmp_path / "mine", lineage.RunRecord("export", {}, {}, {"verification": {}}))
    return tmp_path / "mine"


def test_nothing_is_sent_without_being_asked(folder: Path) -> None:
    api = RecordingApi()
    assert push(folder, HubConfig(), api) == []
    assert api.calls == []


def test_the_default_is_a_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = RecordingApi()
    assert push(folder, HubConfig(push_to_hub="me/mine"), api) == ["1_Pooling/config.json", "config.json"]
    assert api.calls == []
    shown = capsys.readouterr().out
    assert "dry run: me/mine (private)" in shown
    assert "1_Pooling/config.json" in shown


def test_one_private_commit_of_what_was_listed_without_the_paths_in_run_json(folder: Path) -> None:
    api = RecordingApi()
    files = push(folder, HubConfig(push_to_hub="me/mine", dry_run=False), api)
    (_, created), (_, uploaded) = api.calls
    assert created == {"repo_id": "me/mine", "private": True, "exist_ok": True}
    assert uploaded["allow_patterns"] == files == ["1_Pooling/config.json", "config.json"]
    assert uploaded["folder_path"] == folder
    assert "run.json" in push(folder, HubConfig(push_to_hub="me/mine", with_run_record=True), api)


def test_an_unverified_export_is_not_sent(tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model", num_layers=1)
    folder = export(model, tmp_path / "out", verify=False)
    api = RecordingApi()
    with pytest.raises(VerificationError, match="verify=false"):
        push(folder, HubConfig(push_to_hub="me/mine", dry_run=False), api)
    assert api.calls == []


def test_the_export_lists_and_where_it_is_sent_does_not_make_it_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model_directory(tmp_path / "model", num_layers=1)
    export(model, tmp_path / "out", verify=False)
    export(model, tmp_path / "out", verify=False, hub=HubConfig(push_to_hub="me/mine"))
    shown = capsys.readouterr().out
    assert "up to date" in shown
    assert "dry run: me/mine (private)" in shown
