"""Checks of the files of a folder, without running a model: weights, dtype, pooling keys, tokenizer state, card."""

import json
from pathlib import Path
from typing import Any

from qwen3emb_train.export.backbone import read_json
from qwen3emb_train.export.checks import BrokenPromiseError, Finding, NotApplicableError
from qwen3emb_train.lineage import RUN_FILE, read_record, require_unchanged
from qwen3emb_train.model_directory import OLD_POOLING_NAMES, POOLING_MODES
from qwen3emb_train.models.weights import StoredWeights

_CARD_KEYS = ("library_name", "pipeline_tag", "tags")
_CARD_FACTS = ("license", "base_model")


def check_weights(directory: Path) -> Finding:
    """No shard is missing, every tensor can be read, no value is NaN or infinite.

    Raises:
        FileNotFoundError, ValueError: otherwise.
    """
    weights = StoredWeights(directory)
    for name in weights.names:
        weights.load(name)
    return Finding(f"{len(weights.names)} tensors, all finite")


def check_written(directory: Path) -> Finding:
    """The bytes are those that the run wrote, by the digests in its ``run.json``, which may lie one level up.

    Raises:
        NotApplicableError: there are none.
        ValueError: a file is missing or has other bytes.
    """
    record, prefix = read_record(directory), "" if (directory / RUN_FILE).is_file() else f"{directory.name}/"
    digests = {} if record is None else record.digests
    own = {name.removeprefix(prefix): value for name, value in digests.items() if name.startswith(prefix)}
    if not own:
        raise NotApplicableError("no run.json with digests")
    require_unchanged(directory, own)
    return Finding(f"{len(own)} files, as run.json has them")


def check_dtype(directory: Path) -> Finding:
    """The weights are stored in the dtype that config.json names, under both spellings of the key.

    Raises:
        BrokenPromiseError: they are not.
        NotApplicableError: config.json names no dtype.
    """
    config = read_json(directory / "config.json")
    named = {key: config[key] for key in ("dtype", "torch_dtype") if config.get(key)}
    if not named:
        raise NotApplicableError("config.json names no dtype")
    weights = StoredWeights(directory)
    stored = sorted({str(weights.dtype(name)).removeprefix("torch.") for name in weights.names})
    if set(named.values()) != set(stored):
        raise BrokenPromiseError(f"config.json says {named}, the weights are stored as {', '.join(stored)}")
    return Finding(stored[0])


def is_causal_decoder(config: dict[str, Any]) -> bool:
    """Whether only the last token has read the whole text (families with a masked-LM form are encoders)."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.get("model_type")
    is_decoder = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return is_decoder and config.get("is_causal", True) is not False and not config.get("use_bidirectional_attention")


def pooling_of(directory: Path) -> str | None:
    """The folder's pooling under its old name ("lasttoken", "mean_tokens", ...); None without modules.json.

    Raises:
        BrokenPromiseError: its old and new keys disagree, or there is no pooling module.
    """
    if not (directory / "modules.json").is_file():
        return None
    settings = read_pooling(directory)
    old = [mode for mode in POOLING_MODES if settings.get(f"pooling_mode_{mode}")]
    new = settings.get("pooling_mode")
    new_name = None if new is None else OLD_POOLING_NAMES.get(new, new)
    if old and new_name is not None and old != [new_name]:
        raise BrokenPromiseError(f"1_Pooling/config.json says {old} in its booleans and {new!r} in pooling_mode")
    return "+".join(old) or new_name


def read_pooling(directory: Path) -> dict[str, Any]:
    """config.json of the pooling module that modules.json names.

    Raises:
        BrokenPromiseError: it names none.
    """
    modules: Any = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    paths = [module["path"] for module in modules if module["type"].rsplit(".", 1)[-1] == "Pooling"]
    if not paths:
        raise BrokenPromiseError("modules.json names no Pooling module")
    return read_json(directory / paths[0] / "config.json")


def check_pooling(directory: Path, must_be_last: bool) -> Finding:
    """A causal model pools by the last token, under the keys of every reader.

    Raises:
        BrokenPromiseError: it does not.
        NotApplicableError: no Sentence-Transformers folder, or no causal model.
    """
    pooling = pooling_of(directory)
    if pooling is None:
        raise NotApplicableError("no modules.json: not a Sentence-Transformers folder")
    if pooling != "lasttoken":
        if must_be_last or is_causal_decoder(read_json(directory / "config.json")):
            raise BrokenPromiseError(f"pools by {pooling}, but only the last token has read the whole text")
        raise NotApplicableError(f"pools by {pooling}, as a model that reads in both directions may")
    settings = read_pooling(directory)
    lacking = [mode for mode in (*POOLING_MODES[:2], "lasttoken") if f"pooling_mode_{mode}" not in settings]
    if lacking:
        raise BrokenPromiseError(
            f"1_Pooling/config.json lacks the old keys pooling_mode_{{{','.join(lacking)}}}: TEI cannot read it, and "
            "vLLM before September 2026 and llama.cpp take another pooling"
        )
    return Finding(
        "last token" if "pooling_mode" in settings else "last token (old keys only, which every reader knows)"
    )


def check_tokenizer_state(directory: Path, must_be_free: bool) -> Finding:
    """tokenizer.json has no truncation or padding state of a past call, which would truncate every text.

    Raises:
        BrokenPromiseError: it has, and ``must_be_free``.
        NotApplicableError: it has, which only readers without transformers apply.
    """
    stored = read_json(directory / "tokenizer.json")
    left = [key for key in ("truncation", "padding") if stored.get(key)]
    if left:
        what = f"tokenizer.json holds the {' and '.join(left)} settings of a past call"
        if must_be_free:
            raise BrokenPromiseError(what)
        raise NotApplicableError(f"{what}, by which readers without transformers cut or pad")
    return Finding("no truncation or padding state")


def check_card(directory: Path) -> Finding:
    """README.md has front matter for the hub, and example code.

    Raises:
        BrokenPromiseError: README.md, a key of its front matter or the code is missing.
    """
    from huggingface_hub import ModelCard

    if not (directory / "README.md").is_file():
        raise BrokenPromiseError("there is no README.md")
    card = ModelCard.load(directory / "README.md")
    data = card.data.to_dict()
    lacking = [key for key in _CARD_KEYS if not data.get(key)]
    if lacking:
        raise BrokenPromiseError(f"the front matter of README.md lacks {', '.join(lacking)}")
    if "```python" not in card.text:
        raise BrokenPromiseError("README.md shows no code: how is the model used?")
    unsaid = [key for key in _CARD_FACTS if not data.get(key)]
    return Finding(f"complete, except that it names no {' and no '.join(unsaid)}" if unsaid else "complete")
