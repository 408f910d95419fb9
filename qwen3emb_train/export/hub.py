"""Uploads a verified folder to the Hugging Face hub: off, private and a dry run by default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.export.checks import VerificationError

# run.json contains paths of this machine, so it is uploaded only on request.
_PRIVATE_FILES = (lineage.RUN_FILE,)


@dataclass
class HubConfig:
    """Settings of an upload.

    Attributes:
        push_to_hub: repository name, as in "me/my-model"; null: nothing is sent.
        dry_run: only list what would be sent.
        private: make a new repository private (an existing one stays as it is).
        with_run_record: send run.json too; it names paths of this machine.
    """

    push_to_hub: str | None = None
    dry_run: bool = True
    private: bool = True
    with_run_record: bool = False


def push(directory: Path, config: HubConfig, api: Any = None) -> list[str]:
    """Uploads a folder in one commit; returns the names of its files.

    The token is read by huggingface_hub (``hf auth login`` or HF_TOKEN); it is in no configuration and no log.

    Args:
        directory: the folder.
        config: settings.
        api: a ``huggingface_hub.HfApi``; None: a new one.

    Raises:
        VerificationError: the folder was exported with verify=false.
    """
    if config.push_to_hub is None:
        return []
    left_out = () if config.with_run_record else _PRIVATE_FILES
    files = sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and path.relative_to(directory).as_posix() not in left_out
    )
    where = f"{'dry run: ' if config.dry_run else ''}{config.push_to_hub} ({'private' if config.private else 'public'})"
    sizes = {name: (directory / name).stat().st_size for name in files}
    print("\n".join([where, *(f"  {sizes[name]:>14,}  {name}" for name in files)]))
    if config.dry_run:
        return files
    record = lineage.read_record(directory)
    if record is not None and record.metrics.get("verification") == {"verified": False}:
        raise VerificationError(
            f"{directory} was exported with verify=false. Export it again, verified, and send that."
        )
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    api.create_repo(config.push_to_hub, private=config.private, exist_ok=True)
    api.upload_folder(
        repo_id=config.push_to_hub,
        folder_path=directory,
        allow_patterns=files,
        commit_message="Add a verified export",
    )
    return files
