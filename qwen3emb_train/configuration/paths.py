"""``~`` at the beginning of a path is the home directory, in whatever key, list or file it stands.

A shell expands it only in some places (``output_dir=~/x``, but not ``data.mine.path=~/x``), and never in YAML; and a
directory named ``~`` is one that somebody removes with ``rm -r ~``.
"""

import os
from typing import Any

from omegaconf import Container, DictConfig, ListConfig

PATH_KEYS = frozenset({
    "adapter", "base", "cache_dir", "corpus", "examples", "gguf", "json_path", "model", "output_dir", "path", "prompts",
    "reference", "reranker", "run", "scores", "tokenizer", "work_dir",
})  # fmt: skip
"""Keys whose value is a path, or the name of something on a hub, in whatever block they stand."""
PATHS_KEYS = frozenset({"evaluations", "merges", "models", "rerankers", "runs", "sets"})
"""Lists and mappings of them."""


def expand_home(node: Any) -> None:
    """Expands ``~`` and ``~NAME`` in a composed configuration; changed in place.

    Args:
        node: a mapping or list of the configuration.
    """
    if not isinstance(node, Container) or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for key in _keys(node):
        child = node._get_node(key)
        if isinstance(child, Container):
            if key in PATHS_KEYS:
                _expand_values(child)
            expand_home(child)
        elif key in PATH_KEYS:
            _expand(node, key)


def _keys(node: Container) -> list[Any]:
    if isinstance(node, DictConfig):
        return list(node.keys())
    return list(range(len(node))) if isinstance(node, ListConfig) else []


def _expand_values(node: Container) -> None:
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for key in _keys(node):
        _expand(node, key)


def _expand(node: Container, key: Any) -> None:
    child = node._get_node(key)  # as written: what it refers to is expanded where it stands
    value = None if child is None or isinstance(child, Container | list) else child._value()
    if isinstance(value, str) and value.startswith("~") and isinstance(node, DictConfig | ListConfig):
        node[key] = os.path.expanduser(value)
