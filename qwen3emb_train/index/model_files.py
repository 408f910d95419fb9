"""Files of a model directory or of a hub model."""

import json
from pathlib import Path
from typing import Any


def model_file(model: str, name: str) -> Path | None:
    """A file of a model directory, or of a hub model (downloaded where the hub is reachable); None if it has none."""
    if Path(model).is_dir():
        return path if (path := Path(model) / name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def model_json(model: str, name: str) -> dict[str, Any] | None:
    """The content of a JSON file of a model; None if it has none."""
    path = model_file(model, name)
    content: dict[str, Any] | None = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    return content
