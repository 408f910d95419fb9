"""Data sets of the Hugging Face hub, as files: ``datasets`` loads one into its cache, and its rows are read from there.

The cache holds Arrow files, which are read a batch at a time: a data set may be larger than memory. Another process, or
a later run, finds them there and needs no network.
"""

import re
from glob import escape
from pathlib import Path

from qwen3emb_train import lineage

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?::([\w.-]+))?")


def hub_path(name: str) -> Path:
    """The files of a data set's split, as a file or a pattern.

    Args:
        name: ``ORG/NAME``, ``ORG/NAME:SPLIT`` or ``ORG/NAME:CONFIGURATION:SPLIT``; the split is else ``train``.

    Raises:
        FileNotFoundError: there is neither such a file nor such a data set, or the hub cannot be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise FileNotFoundError(f"{name}: no such file or directory. Check the path, or run the stage that writes it.")
    dataset, first, second = match.groups()
    configuration, split = (first, second) if second else (None, first or "train")
    try:
        import datasets

        loaded = datasets.load_dataset(dataset, configuration, split=split)
    except Exception as error:  # of a dozen classes: offline, unknown, several configurations, code that is not run
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise FileNotFoundError(
            f"{name}: no such file or directory, and the hub's data set of this name (ORG/NAME:CONFIGURATION:SPLIT) "
            f"could not be loaded: {why.rstrip('.')}. Check the name, or give a path."
        ) from error
    return _pattern(name, [Path(one["filename"]) for one in loaded.cache_files])


def looks_like_a_name(name: str) -> bool:
    """Whether ``name`` could be on the hub: two parts, the first of which is no directory here."""
    return _NAME.fullmatch(name) is not None and not Path(name.partition("/")[0]).exists()


def _pattern(name: str, files: list[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    if files:
        first, last = min(map(str, files)), max(map(str, files))
        length = next(place for place, letters in enumerate(zip(first, last, strict=False)) if len(set(letters)) > 1)
        pattern = Path(f"{escape(first[:length])}*.arrow")
        if lineage.matches(pattern) == sorted(files):
            return pattern
    raise FileNotFoundError(f"{name}: its files are not together in the cache of datasets. Save it with save_to_disk.")
