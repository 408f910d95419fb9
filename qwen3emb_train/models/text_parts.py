"""The language model inside a vision-language checkpoint (Qwen3-VL, Qwen2.5-VL, Gemma-3, ...).

It is loaded, trained and exported as the text-only architecture that it is. What Qwen's have beyond that (positions in
three sections, features added to early layers) is for images: on text alone they are Qwen2 and Qwen3.
"""

import re
from collections.abc import Iterable
from typing import Any

_AS_TEXT_ONLY = {"qwen3_vl_text": "qwen3", "qwen2_5_vl_text": "qwen2", "qwen2_vl_text": "qwen2"}
_FOR_IMAGES = ("mrope_section", "mrope_interleaved")
_INNER = re.compile(r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?(?!lm_head)")
_INNER_HEAD = re.compile(r"^(?:model\.)?(?:language_model|text_model)\.(?=lm_head)")


def has_text_part(config: Any) -> bool:
    """Whether a transformers configuration is of a model around a language model."""
    return getattr(config, "text_config", None) is not None


def text_config(config: Any) -> Any:
    """The transformers configuration of the language model; of a text-only model its own."""
    if not has_text_part(config):
        return config
    from transformers import AutoConfig

    inner = config.text_config
    settings = {
        key: value
        for key, value in inner.to_dict().items()
        if key not in ("model_type", "architectures", "_name_or_path")
    }
    # The outer one holds for the head.
    own = getattr(inner, "tie_word_embeddings", False)
    settings["tie_word_embeddings"] = bool(getattr(config, "tie_word_embeddings", own))
    model_type = _AS_TEXT_ONLY.get(inner.model_type, inner.model_type)
    if model_type != inner.model_type:
        known = AutoConfig.for_model(model_type).to_dict()
        settings = {key: value for key, value in settings.items() if key in known}
        rope = settings.get("rope_parameters") or {}
        settings["rope_parameters"] = {key: value for key, value in rope.items() if key not in _FOR_IMAGES}
    return AutoConfig.for_model(model_type, **settings)


def key_mapping() -> dict[str, str]:
    """Stored names to those of the causal language model, as ``from_pretrained`` takes it."""
    return {_INNER_HEAD.pattern: "", _INNER.pattern: "model."}


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the causal language model -> stored name, of the tensors that belong to the language model.

    Of a text-only model all names, as they are.
    """
    names = list(names)
    inner = {
        _INNER_HEAD.sub("", _INNER.sub("model.", name)): name
        for name in names
        if _INNER.match(name) or _INNER_HEAD.match(name)
    }
    if not inner:
        own = {name: name for name in names}
        # Older files of Qwen2-VL keep the language model where a text-only one has it, beside the images' tower.
        return {name: stored for name, stored in own.items() if not stored.startswith(("visual.", "model.visual."))}
    return inner | {name: name for name in names if name == "lm_head.weight"}
